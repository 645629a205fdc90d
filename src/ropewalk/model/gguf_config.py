"""Correct the config that transformers makes of a GGUF file, by what the file says.

transformers reads a short list of keys for each architecture and drops the others without a word: a scaled RoPE, a
width of heads, a soft cap. The model then loads and reads worse. So every key of the model is looked at here: it is
compared with the config, written into it, or refused by its name.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ropewalk.core.error import UserError
from ropewalk.model.read_gguf import GgufFile
from ropewalk.rope.frequency import plain_inv_freq
from ropewalk.rope.scaling import Llama3

_LLAMA3_TOKENS = 8192
"""The original context of every Llama 3."""
_PLAIN: Mapping[str, str] = {
    "context_length": "max_position_embeddings",
    "block_count": "num_hidden_layers",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "vocab_size": "vocab_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.value_length": "head_dim",
    "attention.sliding_window": "sliding_window",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
}
"""Keys of the model after its architecture's name, and the key of config.json with the same value."""
_EPSILON = ("attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon")
_EPSILON_KEYS = ("rms_norm_eps", "norm_epsilon", "layer_norm_eps", "norm_eps")
"""The names that classes give it."""
_ROPE = frozenset(
    {
        "rope.freq_base",
        "rope.freq_base_swa",
        "rope.dimension_count",
        "rope.scaling.type",
        "rope.scaling.factor",
        "rope.scaling.original_context_length",
        "rope.scaling.finetuned",
    }
)


def correct_config(file: GgufFile, config: Mapping[str, Any]) -> dict[str, Any]:
    """``config``, which transformers made of ``file``, with all that the file says.

    Raises UserError for a key that has no place in a config, and for positions that transformers cannot spell.
    """
    made, keys = dict(config), file.model_keys
    unknown = sorted(keys.keys() - _PLAIN.keys() - _ROPE - set(_EPSILON))
    if unknown:
        raise _refuse_key(file, unknown[0], keys[unknown[0]], "its place in a config.json is not known here")
    head_dim = {keys[name] for name in ("attention.key_length", "attention.value_length") if name in keys}
    if len(head_dim) > 1:
        raise _refuse_key(
            file, "attention.value_length", keys["attention.value_length"], "keys and values must have one width"
        )
    for name in keys.keys() & _PLAIN.keys():
        made[_PLAIN[name]] = keys[name]
    for name in keys.keys() & set(_EPSILON):
        made[next(key for key in _EPSILON_KEYS if key in made)] = keys[name]
    width = made.get("head_dim") or made["hidden_size"] // made["num_attention_heads"]
    rotary = keys.get("rope.dimension_count", width)
    if rotary != width:
        raise _refuse_key(file, "rope.dimension_count", rotary, f"only whole heads of {width} can be rotated")
    tables = sorted(name for name in file.sizes if name.startswith("rope_"))
    if tables:
        raise _refuse_key(file, tables[0], "a tensor", "this table of factors cannot be read back into a method")
    made["rope_parameters"] = _correct_rope(file, made["rope_parameters"], head_dim=width)
    return made


def _correct_rope(file: GgufFile, rope: Mapping[str, Any], *, head_dim: int) -> dict[str, Any]:
    """``rope_parameters``, flat or by layer type. In a file with windows, its scaling is that of full attention."""
    keys, kinds = file.model_keys, {"full_attention", "sliding_attention"} & rope.keys()
    if kinds:
        full, local = dict(rope["full_attention"]), dict(rope["sliding_attention"])
        local["rope_theta"] = keys.get("rope.freq_base_swa", local["rope_theta"])
        return {"full_attention": _scale_rope(file, full), "sliding_attention": local}
    if "rope.freq_base_swa" in keys:
        raise _refuse_key(file, "rope.freq_base_swa", keys["rope.freq_base_swa"], "this class has one RoPE")
    made = _scale_rope(file, dict(rope))
    if not file.factors:
        return made
    if made["rope_type"] != "default":
        raise _refuse_key(file, "rope.scaling.type", made["rope_type"], "the file also has a table of factors")
    return made | _recognise_llama3(file, made["rope_theta"], head_dim=head_dim)


def _recognise_llama3(file: GgufFile, theta: float, *, head_dim: int) -> dict[str, Any]:
    """The method of Llama 3.1 to 3.3, if its factors are those of the file; the converter writes only the factors."""
    factor = max(file.factors)
    method = Llama3(factor=factor, original_tokens=_LLAMA3_TOKENS) if 1 <= factor < math.inf else None
    if method is not None and len(file.factors) == head_dim // 2:
        expected = plain_inv_freq(theta, head_dim) / method.inv_freq(theta, head_dim)
        if np.allclose(file.factors, expected, rtol=1e-4):
            return method.to_hf(theta)
    raise _refuse_key(file, "rope_freqs.weight", "a tensor", "its factors are not those of Llama 3's method")


def _scale_rope(file: GgufFile, rope: dict[str, Any]) -> dict[str, Any]:
    keys = file.model_keys
    rope["rope_theta"] = keys.get("rope.freq_base", 10_000.0)  # llama.cpp's own default
    kind, factor = keys.get("rope.scaling.type", "none"), keys.get("rope.scaling.factor", 1.0)
    if kind == "none" or factor == 1.0:
        return rope | {"rope_type": "default"}
    made: dict[str, Callable[[], dict[str, Any]]] = {
        "linear": dict,
        "yarn": lambda: {"original_max_position_embeddings": keys["rope.scaling.original_context_length"]},
    }
    if kind not in made or (kind == "yarn" and "rope.scaling.original_context_length" not in keys):
        raise _refuse_key(file, "rope.scaling.type", kind, "linear, and yarn with its original length, can be written")
    return rope | {"rope_type": kind, "factor": factor, **made[kind]()}


def _refuse_key(file: GgufFile, key: str, value: Any, why: str) -> UserError:
    return UserError(
        "the GGUF file has a model that cannot be imported",
        where=f"{file.path}: {key}",
        why=f"it is {value!r}; {why}, and without it the model would read worse",
        fix="take the model's original folder with config.json and safetensors",
    )
