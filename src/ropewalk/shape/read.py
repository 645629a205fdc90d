"""A model's shape from its config.json; an unsupported value is refused here, by name.

A missing key does not mean that a feature is off. Without the key, transformers gives Mistral a window of 4096 tokens,
Qwen3 heads of 128 dimensions and SmolLM3 a tied head.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ropewalk.core.artifact import is_finished, read_manifest
from ropewalk.core.error import UserError
from ropewalk.core.quantity import format_count
from ropewalk.rope.layers import LayerPosition, find_stretched
from ropewalk.rope.method import LARGEST_TOKENS
from ropewalk.shape.experts import Experts, read_experts
from ropewalk.shape.families import find_family, require_row
from ropewalk.shape.family import Bias, Family
from ropewalk.shape.latent import read_latent
from ropewalk.shape.model_shape import ModelShape
from ropewalk.shape.nulls import settle_nulls
from ropewalk.shape.own_names import rename_keys
from ropewalk.shape.read_layers import read_layers
from ropewalk.shape.recurrent_sizes import read_recurrent
from ropewalk.shape.rope_keys import find_reach, find_rotary_share
from ropewalk.shape.single_layers import list_single
from ropewalk.shape.unequal import read_unequal
from ropewalk.shape.values import (
    LARGEST_COUNT,
    MOST_LAYERS,
    WIDEST_HEAD,
    check_equal_heads,
    check_factors,
    check_values,
)
from ropewalk.shape.wrappers import find_wrapper, read_text_config

_DTYPES = ("float32", "bfloat16", "float16")


def read_shape(folder: Path) -> ModelShape:
    """The shape of the model in ``folder``. Raises UserError if its config.json is absent, broken or unsupported."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=partial(_refuse_twice, path))
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
    return _name_methods(folder, parse_shape(config, str(path)))


def _refuse_twice(path: Path, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A mapping of config.json. Raises UserError for a key that stands there twice: readers take one or the other."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(
            "config.json has a key twice",
            where=f"{path}: {twice}",
            why=f"its values are {', '.join(f'{value!r:.60}' for name, value in pairs if name == twice)}",
            fix="remove one of them",
        )
    return found


def _name_methods(folder: Path, shape: ModelShape) -> ModelShape:
    """``shape`` with the methods in the folder's manifest, where its class has another word for the same angles."""
    if require_row(shape.architecture).methods is None or not is_finished(folder):
        return shape
    told = read_manifest(folder)["facts"].get("positions", ())
    positions = tuple(LayerPosition.model_validate(layer) for layer in told)
    alike = len(positions) == shape.layers and all(
        np.allclose(one.inv_freq(shape.rotary_dim), other.inv_freq(shape.rotary_dim), rtol=1e-9)
        and one.window_tokens == other.window_tokens
        and math.isclose(one.attention_factor, other.attention_factor, rel_tol=1e-9)
        for one, other in zip(positions, shape.positions, strict=True)
    )
    return replace(shape, positions=positions) if alike else shape


def parse_shape(config: Mapping[str, Any], where: str) -> ModelShape:
    """The shape that a config.json describes; ``where`` is its name in errors. A multimodal one has its text part's."""
    multimodal, config = find_wrapper(config) is not None, read_text_config(config, where)
    architecture, family = find_family(config, where)
    config = list_single(rename_keys(settle_nulls(config, family), family, where), family, where)
    width, heads, kv_heads = _read_widths(config, family, where)
    context_tokens = _count(config, "max_position_embeddings", where, most=LARGEST_TOKENS)
    head_dim = _find_head_dim(config, family, width // heads, where)
    count = partial(_count, config, where=where)
    latent = read_latent(config, family, count=count, where=where)
    if latent is not None:
        head_dim = latent.head_dim
    vocabulary = _count(config, "vocab_size", where)
    layers = _count(config, "num_hidden_layers", where, most=MOST_LAYERS)
    share = find_rotary_share(config, family, head_dim=head_dim, where=where)
    rotary_dim = latent.rotary_dim if latent else int(share * head_dim)
    check_values(config, family, head_dim=head_dim, rotary_dim=rotary_dim, vocabulary=vocabulary, where=where)
    positions = read_layers(config, family, layers=layers, context_tokens=context_tokens, where=where)
    check_factors(positions, head_dim=rotary_dim, where=where)
    unequal = None
    if family.unequal:
        sizes = read_unequal(config, positions, kv_heads=kv_heads, head_dim=head_dim, count=count, where=where)
        kv_heads, head_dim, unequal = sizes
        if heads % kv_heads:
            raise _unusable("num_global_key_value_heads", f"{kv_heads} for {format_count(heads, 'head')}", where)
    norms = family.qk_norm if not family.qk_norm_key or config.get(family.qk_norm_key) else "none"
    return ModelShape(
        architecture=architecture,
        width=width,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        mlp_width=_find_mlp_width(config, family, where),
        vocabulary=vocabulary,
        tied=bool(config.get(family.tied_key, config.get("tie_word_embeddings", family.tied))),
        context_tokens=find_reach(config, find_stretched(positions), context_tokens),
        positions=positions,
        bos_id=_find_id(config, "bos_token_id", where),
        eos_id=_find_id(config, "eos_token_id", where),
        dtype=_find_dtype(config, where),
        qkv_bias=_has_bias(config, family.qkv_bias),
        output_bias=_has_bias(config, family.output_bias),
        mlp_bias=_has_bias(config, family.mlp_bias),
        qk_norm=norms,
        block_norms=family.block_norms,
        rotary_share=share,
        norm=family.norm,
        mlp=family.mlp,
        experts=_find_experts(config, family, layers=layers, width=width, where=where),
        other_parameters=family.other_parameters + heads * family.sinks,
        logit_scale=_find_logit_scale(config, family, where),
        logit_cap=_find_logit_cap(config, family, where),
        projections=tuple((latent.projections if latent else family.projections).items()),
        latent=latent,
        unequal=unequal,
        recurrent=read_recurrent(config, family, layers=layers, count=count, where=where),
        single=family.single,
        query_gate=family.query_gate,
        multimodal=multimodal,
    )


def _read_widths(config: Mapping[str, Any], family: Family, where: str) -> tuple[int, int, int]:
    """The model's width, its query heads and its key heads."""
    width, heads = _count(config, "hidden_size", where), _count(config, "num_attention_heads", where)
    check_equal_heads(config, family, width=width, heads=heads, where=where)
    kv_heads = _find_kv_heads(family, config, where)
    if heads % kv_heads or (width % heads and not config.get("head_dim")):
        raise UserError(
            "the numbers of heads do not match",
            where=where,
            why=f"{format_count(heads, 'head')} over {format_count(kv_heads, 'key-value head')} and a width of {width}",
            fix="correct hidden_size, num_attention_heads or num_key_value_heads",
        )
    return width, heads, kv_heads


def _find_head_dim(config: Mapping[str, Any], family: Family, usual: int, where: str) -> int:
    if family.needs_head_dim and config.get("head_dim") is None:
        raise _unusable("head_dim", f"missing, and {family.model_type} has no default", where)
    if config.get("head_dim", usual) is None:
        return _count({}, "head_dim", where, default=usual, most=WIDEST_HEAD)
    return _count(config, "head_dim", where, default=family.head_dim or usual, most=WIDEST_HEAD)


def _has_bias(config: Mapping[str, Any], bias: Bias) -> bool:
    return bias if isinstance(bias, bool) else bool(config.get(*bias))


def _find_mlp_width(config: Mapping[str, Any], family: Family, where: str) -> int:
    count = partial(_count, config, where=where)
    if not family.adjusts_mlp:
        return count(family.mlp_width_key)
    given = count("block_ff_dim" if config.get("block_ff_dim") is not None else family.mlp_width_key)
    if not config.get("block_auto_adjust_ff_dim", True):
        return given
    wide = 2 * given // 3
    multiple = count("block_multiple_of", default=256)
    return multiple * -(-int(_find_figure(config, "block_ffn_dim_multiplier", 1.0, where) * wide) // multiple)


def _find_experts(config: Mapping[str, Any], family: Family, *, layers: int, width: int, where: str) -> Experts | None:
    if family.experts is None:
        return None
    count = partial(_count, config, where=where)
    return read_experts(config, family.experts, layers=layers, width=width, count=count, where=where)


def _find_logit_scale(config: Mapping[str, Any], family: Family, where: str) -> float:
    if family.logit_scale is None:
        return 1.0
    key, default = family.logit_scale
    if family.logit_by_width and key in config and config[key] is None:
        return 1.0
    value = _find_figure(config, key, default, where)
    if family.logit_by_width:
        return value / _count(config, "hidden_size", where)
    return 1.0 / value if family.logit_divides else value


def _find_logit_cap(config: Mapping[str, Any], family: Family, where: str) -> float | None:
    if family.logit_cap is None:
        return None
    key, default = family.logit_cap
    if config.get(key, default) is None:
        return None
    return _find_figure(config, key, default, where)


def _find_figure(config: Mapping[str, Any], key: str, default: float | None, where: str) -> float:
    value = config.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e30:
        raise UserError(
            f"{key} is not usable",
            where=f"{where}: {key}",
            why=f"it is {value!r:.60}, and must be a number above 0",
            fix="correct it",
        )
    return float(value)


def _find_kv_heads(family: Family, config: Mapping[str, Any], where: str) -> int:
    if "num_key_value_heads" not in config and family.needs_kv_heads:
        told = f"missing, and the class of {family.model_type} has no default for it, or another model's"
        raise _unusable("num_key_value_heads", told, where)
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
        raise _unusable(key, "missing" if value is None else f"{value!r:.60}", where, most)
    return value


def _find_id(config: Mapping[str, Any], key: str, where: str) -> int | None:
    value = config.get(key)
    if isinstance(value, list):
        value = value[0] if value else None
    if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
        raise _unusable(key, repr(value), where)
    return value


def _find_dtype(config: Mapping[str, Any], where: str) -> str:
    given = [config[key] for key in ("dtype", "torch_dtype") if config.get(key) is not None]
    dtype = str(given[0] if given else "float32").removeprefix("torch.")
    if dtype not in _DTYPES:
        raise UserError(
            "weights of this type are not supported",
            where=f"{where}: dtype",
            why=f"{dtype or 'an empty text'} is none of {', '.join(_DTYPES)}",
            fix="convert the model first",
        )
    return dtype


def _unusable(key: str, found: str, where: str, most: int | None = None) -> UserError:
    return UserError(
        f"{key} is not usable",
        where=f"{where}: {key}",
        why=f"it is {found}, and must be a whole number from 1 to {most}"
        if most is not None
        else f"it is {found}, and must be a whole number",
        fix="correct it",
    )
