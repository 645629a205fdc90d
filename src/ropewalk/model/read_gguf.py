"""Read what a GGUF file says about its model, and correct the config that transformers makes of it.

transformers reads a short list of keys for each architecture and drops the others without a word: a scaled RoPE, a
width of heads, a soft cap. The model then loads and reads worse. So every key of the model is looked at here: it is
compared with the config, written into it, or refused by its name. The tensors are counted for the same reason.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ropewalk.core.error import UserError, explain_import_fault

_MAGIC = b"GGUF"
_TOKENIZER = "tokenizer.ggml."
_SPLIT, _KIND = f"{_TOKENIZER}pre", f"{_TOKENIZER}model"
_LIKE_GPT2 = {"default", "gpt-2", "smollm", "starcoder", "refact", "command-r", "olmo", "phi-2"}
"""Ways to split a text before merging that give GPT-2's tokens: those with one token a digit never merge digits."""
_FLOAT_TYPES = {"F64", "F32", "F16", "BF16"}
_PARTS_HINT = "download the file again; where it came in parts, join all of them in their order into one file"

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


@dataclass(frozen=True)
class GgufFile:
    """The contents of a GGUF file without its weights."""

    path: Path
    keys: Mapping[str, Any]
    """All metadata except arrays."""
    sizes: Mapping[str, int]
    """Values of each tensor, by GGUF's name."""
    types: Mapping[str, int]
    """Values stored in each type of GGUF, such as Q4_1."""
    tokens: int
    """Entries of the tokenizer's vocabulary."""
    quantisation: str | None
    """The name of the mix of types, such as Q4_K_M; None where no tensor is quantised."""

    @property
    def architecture(self) -> str:
        return str(self.keys["general.architecture"])

    @property
    def pre_tokenizer(self) -> str | None:
        """The way to split a text that the tokenizer was trained with, where GPT-2's differs from it; else None."""
        name = self.keys.get(_SPLIT)
        return None if name in _LIKE_GPT2 or self.keys.get(_KIND) != "gpt2" else name

    @property
    def model_keys(self) -> dict[str, Any]:
        """The keys of the architecture, without its name before them."""
        begin = f"{self.architecture}."
        return {key.removeprefix(begin): value for key, value in self.keys.items() if key.startswith(begin)}


def read_gguf(path: Path) -> GgufFile:
    """Read a file's metadata and list of tensors with gguf's own reader.

    Raises UserError where the package gguf is missing, where ``path`` is no GGUF file, and where the file is cut short.
    """
    _check_magic(path)
    try:
        from gguf import GGUFReader, LlamaFileType
    except ImportError as fault:
        raise UserError(
            "a GGUF file needs the package gguf",
            where=str(path),
            why=explain_import_fault(fault, "gguf"),
            fix="pip install 'ropewalk[gguf]'",
        ) from None
    try:
        reader = GGUFReader(path)
        keys = {
            name: field.contents()
            for name, field in reader.fields.items()
            if name in {_SPLIT, _KIND} or not name.startswith(_TOKENIZER)
        }
        tokens = reader.fields.get(f"{_TOKENIZER}tokens")
    except (ValueError, IndexError, KeyError, OverflowError) as error:  # numpy's, since the reader checks no length
        raise _refuse_damage(path, f"gguf's reader says: {error}") from None
    sizes = {tensor.name: math.prod(tensor.shape.tolist()) for tensor in reader.tensors}
    types: dict[str, int] = {}
    for tensor in reader.tensors:
        types[tensor.tensor_type.name] = types.get(tensor.tensor_type.name, 0) + sizes[tensor.name]
    if "general.architecture" not in keys or tokens is None or not sizes:
        raise _refuse_damage(path, "it has no model with a tokenizer: an architecture, tokens or tensors are missing")
    names = {kind.value: kind.name.removeprefix("MOSTLY_") for kind in LlamaFileType}
    quantised = {kind: count for kind, count in types.items() if kind not in _FLOAT_TYPES}
    most = max(quantised, key=lambda kind: quantised[kind]) if quantised else None
    name = names.get(keys.get("general.file_type"), most) if quantised else None
    return GgufFile(path, {key: _round(value) for key, value in keys.items()}, sizes, types, len(tokens.data), name)


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
        raise _refuse_key(file, tables[0], "a tensor", "a table of frequency factors cannot be read back into a method")
    made["rope_parameters"] = _correct_rope(file, made["rope_parameters"])
    return made


def _correct_rope(file: GgufFile, rope: Mapping[str, Any]) -> dict[str, Any]:
    """``rope_parameters``, flat or by layer type. In a file with windows, its scaling is that of full attention."""
    keys, kinds = file.model_keys, {"full_attention", "sliding_attention"} & rope.keys()
    if kinds:
        full, local = dict(rope["full_attention"]), dict(rope["sliding_attention"])
        local["rope_theta"] = keys.get("rope.freq_base_swa", local["rope_theta"])
        return {"full_attention": _scale_rope(file, full), "sliding_attention": local}
    if "rope.freq_base_swa" in keys:
        raise _refuse_key(file, "rope.freq_base_swa", keys["rope.freq_base_swa"], "this class has one RoPE")
    return _scale_rope(file, dict(rope))


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


def _check_magic(path: Path) -> None:
    if not path.is_file():
        raise UserError(
            "there is no such GGUF file",
            where=str(path),
            why="it is a folder" if path.is_dir() else "nothing has that name",
            fix="give the path of one .gguf file",
        )
    with path.open("rb") as file:
        begin = file.read(len(_MAGIC))
    if begin != _MAGIC:
        raise UserError(
            "this is not a GGUF file",
            where=str(path),
            why=f"it begins with {begin!r}, not with {_MAGIC!r}" if begin else "it is empty",
            fix="give the path of a .gguf file; a folder with safetensors needs no import",
        )


def _round(value: Any) -> Any:
    """A float32 of the file as the shortest decimal number that is stored as it: 1e-05, not 9.999999747378752e-06."""
    return float(str(np.float32(value))) if isinstance(value, float) else value


def _refuse_damage(path: Path, why: str) -> UserError:
    return UserError("the GGUF file is damaged or cut short", where=str(path), why=why, fix=_PARTS_HINT)


def _refuse_key(file: GgufFile, key: str, value: Any, why: str) -> UserError:
    return UserError(
        "the GGUF file has a model that cannot be imported",
        where=f"{file.path}: {key}",
        why=f"it is {value!r}; {why}, and without it the model would read worse",
        fix="take the model's original folder with config.json and safetensors",
    )
