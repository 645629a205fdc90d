"""A model's shape from its config.json; what cannot be trained right is refused here, by name.

The surprise: a key that is missing is not a key that is off. transformers gives Mistral a window of 4096 tokens, and
Qwen3 heads of 128 dimensions, where the file says nothing.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ropewalk.core.error import UserError
from ropewalk.shape.model_shape import ModelShape
from ropewalk.shape.rope_keys import read_rope


@dataclass(frozen=True, slots=True)
class Family:
    """How an architecture differs from Llama.

    ``needs_kv_heads``: the file must say how many, because the default of the class is another model's. ``head_dim`` is
    the class's default, None where it is width / heads.
    """

    qkv_bias: bool = False
    qk_norm: Literal["none", "head", "all_heads"] = "none"
    needs_kv_heads: bool = False
    head_dim: int | None = None


SUPPORTED: Mapping[str, Family] = {
    "LlamaForCausalLM": Family(),
    "MistralForCausalLM": Family(needs_kv_heads=True),
    "Qwen2ForCausalLM": Family(qkv_bias=True, needs_kv_heads=True),
    "Qwen3ForCausalLM": Family(qk_norm="head", needs_kv_heads=True, head_dim=128),
    "Olmo2ForCausalLM": Family(qk_norm="all_heads"),
}

_MISSING = (
    (("moe", "mixtral", "jamba", "gptoss", "dbrx"), "mixture of experts"),
    (("deepseek", "kimi", "minicpm3"), "latent attention (MLA)"),
    (("smollm3", "llama4", "cohere2", "exaone4"), "layers without RoPE"),
    (("gemma", "olmo3", "ministral"), "layers with sliding windows"),
    (("mamba", "rwkv", "recurrent", "next", "lfm", "falconh1", "zamba", "bamba"), "linear or recurrent attention"),
    (("gpt2", "gptneo", "opt", "bloom", "mpt", "bert"), "RoPE: its positions are learned, absolute or biases"),
    (("vl", "vision", "audio", "conditionalgeneration", "omni"), "more than text"),
)
_EXPERT_KEYS = ("num_experts", "num_local_experts", "n_routed_experts")
_DTYPES = ("float32", "bfloat16", "float16")


def read_shape(folder: Path) -> ModelShape:
    """The shape of the model in ``folder``. Raises UserError if its config.json is absent, broken or unsupported."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(
            "this is not a model folder",
            where=str(folder),
            why="it has no config.json",
            fix="give a folder that save_pretrained wrote or the hub delivered",
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError("config.json cannot be read", where=str(path), why=str(error), fix="correct the file") from None
    if not isinstance(config, dict):
        raise UserError(
            "config.json is not a mapping", where=str(path), why=f"it holds {config!r:.60}", fix="correct it"
        )
    return parse_shape(config, str(path))


def parse_shape(config: Mapping[str, Any], where: str) -> ModelShape:
    """The shape that a config.json describes, ``where`` being its name in errors."""
    architecture, family = _find_family(config, where)
    _refuse_windows(architecture, config, where)
    width, heads = _count(config, "hidden_size", where), _count(config, "num_attention_heads", where)
    kv_heads = _find_kv_heads(architecture, config, where)
    if heads % kv_heads or (width % heads and not config.get("head_dim")):
        raise UserError(
            "the heads do not fit",
            where=where,
            why=f"{heads} heads over {kv_heads} key-value heads and a width of {width}",
            fix="correct hidden_size, num_attention_heads or num_key_value_heads",
        )
    context_tokens = _count(config, "max_position_embeddings", where)
    theta, rope = read_rope(config, context_tokens=context_tokens, where=where)
    attention_bias = bool(config.get("attention_bias")) and architecture not in (
        "MistralForCausalLM",
        "Qwen2ForCausalLM",
    )
    return ModelShape(
        architecture=architecture,
        layers=_count(config, "num_hidden_layers", where),
        width=width,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=_count(config, "head_dim", where, default=family.head_dim or width // heads),
        mlp_width=_count(config, "intermediate_size", where),
        vocabulary=_count(config, "vocab_size", where),
        tied=bool(config.get("tie_word_embeddings", False)),
        context_tokens=context_tokens,
        theta=theta,
        rope=rope,
        bos_id=_find_id(config, "bos_token_id", where),
        eos_id=_find_id(config, "eos_token_id", where),
        dtype=_find_dtype(config, where),
        qkv_bias=family.qkv_bias or attention_bias,
        output_bias=attention_bias,
        mlp_bias=bool(config.get("mlp_bias")) and architecture == "LlamaForCausalLM",
        qk_norm=family.qk_norm,
    )


def _find_family(config: Mapping[str, Any], where: str) -> tuple[str, Family]:
    names = config.get("architectures") or ["(none)"]
    name = str(names[0] if isinstance(names, list) else names)
    missing = next((reason for words, reason in _MISSING if any(word in name.lower() for word in words)), None)
    if "kv_lora_rank" in config:
        missing = "latent attention (MLA)"
    if any(config.get(key) for key in _EXPERT_KEYS):
        missing = "mixture of experts"
    if config.get("quantization_config"):
        missing = "training of quantized weights"
    if missing is None and name in SUPPORTED:
        return name, SUPPORTED[name]
    raise UserError(
        f"{name} is not supported",
        where=f"{where}: architectures",
        why=f"what is missing here is {missing or 'a check of its shape and its positions'}",
        fix=f"choose a base of one of {', '.join(SUPPORTED)}",
    )


def _refuse_windows(architecture: str, config: Mapping[str, Any], where: str) -> None:
    windowed = (
        config.get("use_sliding_window") if architecture.startswith("Qwen") else architecture.startswith("Mistral")
    )
    others = sorted({str(kind) for kind in config.get("layer_types") or ()} - {"full_attention"})
    window = config.get("sliding_window", 4096) if windowed else None
    if others or window is not None:
        assumed = "" if "sliding_window" in config else ", which transformers assumes where the key is missing"
        raise UserError(
            "sliding windows are not supported yet",
            where=f"{where}: {'layer_types' if others else 'sliding_window'}",
            why=f"it has layers of type {', '.join(others)}" if others else f"a window of {window} tokens{assumed}",
            fix='write "sliding_window": null if the model was trained without one, or choose another base',
        )


def _find_kv_heads(architecture: str, config: Mapping[str, Any], where: str) -> int:
    if "num_key_value_heads" not in config and SUPPORTED[architecture].needs_kv_heads:
        raise _unusable(
            "num_key_value_heads", "missing, and the default of this architecture is another model's", where
        )
    if config.get("num_key_value_heads") is None:
        return _count(config, "num_attention_heads", where)
    return _count(config, "num_key_value_heads", where)


def _count(config: Mapping[str, Any], key: str, where: str, *, default: int | None = None) -> int:
    """A positive whole number; a float such as 4096.0 is refused, as other readers of the file would refuse it."""
    value = config.get(key)
    if value is None and default is not None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise _unusable(key, "missing" if value is None else repr(value), where)
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
