"""A model's shape from its config.json; an unsupported value is refused here, by name.

A missing key does not mean that a feature is off. Without the key, transformers gives Mistral a window of 4096 tokens,
Qwen3 heads of 128 dimensions and SmolLM3 a tied head.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ropewalk.core.error import UserError
from ropewalk.rope.layers import find_stretched
from ropewalk.shape.families import SUPPORTED, find_family
from ropewalk.shape.model_shape import ModelShape
from ropewalk.shape.read_layers import read_layers
from ropewalk.shape.rope_keys import find_reach
from ropewalk.shape.values import LARGEST_COUNT, MOST_LAYERS, WIDEST_HEAD, check_factors, check_values
from ropewalk.shape.wrappers import read_text_config

_DTYPES = ("float32", "bfloat16", "float16")


def read_shape(folder: Path) -> ModelShape:
    """The shape of the model in ``folder``. Raises UserError if its config.json is absent, broken or unsupported."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            "this is not a model folder",
            where=str(folder),
            why="it has no config.json" if folder.is_dir() else "there is no such folder",
            fix="give a folder that save_pretrained wrote or the hub delivered",
        ) from None
    except (
        ValueError,
        RecursionError,
    ) as error:  # no JSON, no UTF-8, a number of 5000 digits, or deeply nested brackets
        raise UserError("config.json cannot be read", where=str(path), why=str(error), fix="correct the file") from None
    if not isinstance(config, dict):
        raise UserError(
            "config.json is not a mapping", where=str(path), why=f"it holds {config!r:.60}", fix="correct it"
        )
    return parse_shape(config, str(path))


def parse_shape(config: Mapping[str, Any], where: str) -> ModelShape:
    """The shape that a config.json describes; ``where`` is its name in errors. A multimodal one has its text part's."""
    config = read_text_config(config, where)
    architecture, family = find_family(config, where)
    width, heads = _count(config, "hidden_size", where), _count(config, "num_attention_heads", where)
    kv_heads = _find_kv_heads(architecture, config, where)
    if heads % kv_heads or (width % heads and not config.get("head_dim")):
        raise UserError(
            "the numbers of heads do not match",
            where=where,
            why=f"{heads} heads over {kv_heads} key-value heads and a width of {width}",
            fix="correct hidden_size, num_attention_heads or num_key_value_heads",
        )
    context_tokens = _count(config, "max_position_embeddings", where)
    head_dim = _count(config, "head_dim", where, default=family.head_dim or width // heads, most=WIDEST_HEAD)
    vocabulary = _count(config, "vocab_size", where)
    check_values(config, head_dim=head_dim, vocabulary=vocabulary, where=where)
    attention_bias, mlp_bias = (
        key in family.biases and bool(config.get(key)) for key in ("attention_bias", "mlp_bias")
    )
    layers = _count(config, "num_hidden_layers", where, most=MOST_LAYERS)
    positions = read_layers(config, family, layers=layers, context_tokens=context_tokens, where=where)
    check_factors(positions, head_dim=head_dim, where=where)
    return ModelShape(
        architecture=architecture,
        width=width,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        mlp_width=_count(config, "intermediate_size", where),
        vocabulary=vocabulary,
        tied=bool(config.get("tie_word_embeddings", family.tied)),
        context_tokens=find_reach(config, find_stretched(positions), context_tokens),
        positions=positions,
        bos_id=_find_id(config, "bos_token_id", where),
        eos_id=_find_id(config, "eos_token_id", where),
        dtype=_find_dtype(config, where),
        qkv_bias=family.qkv_bias or attention_bias,
        output_bias=attention_bias,
        mlp_bias=mlp_bias,
        qk_norm=family.qk_norm,
        block_norms=family.block_norms,
    )


def _find_kv_heads(architecture: str, config: Mapping[str, Any], where: str) -> int:
    if "num_key_value_heads" not in config and SUPPORTED[architecture].needs_kv_heads:
        raise _unusable(
            "num_key_value_heads", "missing, and the default of this architecture belongs to another model", where
        )
    if config.get("num_key_value_heads") is None:
        return _count(config, "num_attention_heads", where)
    return _count(config, "num_key_value_heads", where)


def _count(
    config: Mapping[str, Any], key: str, where: str, *, default: int | None = None, most: int = LARGEST_COUNT
) -> int:
    """A positive whole number; a float such as 4096.0 is refused, because other readers of the file refuse it."""
    value = config.get(key)
    if value is None:
        value = default
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise _unusable(key, "missing" if value is None else f"{value!r:.60}", where)
    return value


def _find_id(config: Mapping[str, Any], key: str, where: str) -> int | None:
    value = config.get(key)
    if isinstance(value, list):
        value = value[0] if value else None
    if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
        raise _unusable(key, repr(value), where)
    return value


def _find_dtype(config: Mapping[str, Any], where: str) -> str:
    dtype = str(config.get("dtype") or config.get("torch_dtype") or "float32").removeprefix("torch.")
    if dtype not in _DTYPES:
        raise UserError(
            "weights of this type are not supported",
            where=f"{where}: dtype",
            why=f"{dtype} is none of {', '.join(_DTYPES)}",
            fix="convert the model first",
        )
    return dtype


def _unusable(key: str, found: str, where: str) -> UserError:
    return UserError(
        f"{key} is not usable",
        where=f"{where}: {key}",
        why=f"it is {found}, and must be a whole number",
        fix="correct it",
    )
