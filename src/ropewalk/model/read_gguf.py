"""Read what a GGUF file says about its model: its keys, and the names, sizes and types of its tensors."""

import math
from collections.abc import Mapping
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
_FACTORS = "rope_freqs.weight"
_FLOAT_TYPES = {"F64", "F32", "F16", "BF16"}
_PARTS_HINT = "download the file again; where it came in parts, join all of them in their order into one file"


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
    factors: tuple[float, ...] = ()
    """Of each pair of dimensions, the plain frequency over that of the model; empty where the file has no such table.

    It is a tensor in the file, but no weight: ``sizes`` and ``types`` leave it out.
    """

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
    weights = [tensor for tensor in reader.tensors if tensor.name != _FACTORS]
    factors = [float(value) for tensor in reader.tensors if tensor.name == _FACTORS for value in tensor.data.flat]
    sizes = {tensor.name: math.prod(tensor.shape.tolist()) for tensor in weights}
    types: dict[str, int] = {}
    for tensor in weights:
        types[tensor.tensor_type.name] = types.get(tensor.tensor_type.name, 0) + sizes[tensor.name]
    if "general.architecture" not in keys or tokens is None or not sizes:
        raise _refuse_damage(path, "it has no model with a tokenizer: an architecture, tokens or tensors are missing")
    names = {kind.value: kind.name.removeprefix("MOSTLY_") for kind in LlamaFileType}
    quantised = {kind: count for kind, count in types.items() if kind not in _FLOAT_TYPES}
    most = max(quantised, key=lambda kind: quantised[kind]) if quantised else None
    name = names.get(keys.get("general.file_type"), most) if quantised else None
    rounded = {key: _round(value) for key, value in keys.items()}
    return GgufFile(path, rounded, sizes, types, len(tokens.data), name, tuple(factors))


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
