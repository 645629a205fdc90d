"""Write weights into safetensors files one tensor at a time, so that no process holds a whole model.

The safetensors library needs all tensors of a file at once. A file begins with names, types and places, which follow
from the shapes alone. So the header is written first, and then each tensor as it is read or computed. The files are the
same, byte for byte, as those that huggingface_hub writes from whole tensors. Only the biases by which experts are
chosen stay in float32, as in the base.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from jaxtyping import Float
from torch import Tensor

from ropewalk.core.strict_json import spell_json
from ropewalk.model.expert_files import CHOICE_BIAS
from ropewalk.model.lazy_weights import shapes_of
from ropewalk.model.read_rows import PIECE_ELEMENTS, STORED_TYPES, count_bad
from ropewalk.model.weights import Dtype, open_to_readers, refuse_bad
from ropewalk.shape.weight_files import INDEX

_FILE_BYTES = 5 * 10**9
TYPE_NAMES = {dtype: name for name, dtype in STORED_TYPES.items()}
"""A type's name in the files."""


def written_type(name: str, dtype: Dtype) -> torch.dtype:
    """The type in which a tensor is written: ``dtype``, but float32 for what decides between near scores."""
    kind: torch.dtype = torch.float32 if name.endswith(CHOICE_BIAS) else getattr(torch, dtype)
    return kind


def write_weights(
    weights: Mapping[str, Float[Tensor, "..."]],
    folder: Path,
    *,
    dtype: Dtype,
    where: Path,
    file_bytes: int = _FILE_BYTES,
) -> None:
    """Write ``weights`` as ``dtype`` into ``folder``, in files of at most ``file_bytes``; several get an index.

    Each weight is read once, and only one is held at a time. Raises UserError, which names the folder ``where``, for a
    value that is not finite in ``dtype``.
    """
    kinds = {name: written_type(name, dtype) for name in weights}
    empty = {name: torch.empty(shape, dtype=kinds[name], device="meta") for name, shape in shapes_of(weights).items()}
    split = split_torch_state_dict_into_shards(empty, max_shard_size=file_bytes)
    for file_name, names in split.filename_to_tensors.items():
        ordered = sorted(names, key=lambda name: (-kinds[name].itemsize, name))  # the library's order
        with (folder / file_name).open("wb") as file:
            file.write(make_header(_lay_out({name: empty[name] for name in ordered}), {"format": "pt"}))
            for name in ordered:
                tensor = weights[name].to(kinds[name]).contiguous()
                assert tensor.shape == empty[name].shape, name
                refuse_bad(where, name, bad=write_tensor(tensor, file), values=tensor.numel())
    if split.is_sharded:
        index = {"metadata": {**split.metadata, "format": "pt"}, "weight_map": split.tensor_to_filename}
        (folder / INDEX).write_text(spell_json(index, indent=2))
    open_to_readers(folder)


def _lay_out(tensors: Mapping[str, Float[Tensor, "..."]]) -> dict[str, Any]:
    """The entries of a file that holds ``tensors`` one after another."""
    entries: dict[str, Any] = {}
    begin = 0
    for name, tensor in tensors.items():
        size = math.prod(tensor.shape) * tensor.element_size()
        entries[name] = {
            "dtype": TYPE_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, begin + size],
        }
        begin += size
    return entries


def make_header(entries: Mapping[str, Any], metadata: Mapping[str, str] | None) -> bytes:
    """The beginning of a safetensors file: the length of the header, and the header of these entries."""
    told = {} if metadata is None else {"__metadata__": metadata}
    text = spell_json({**told, **entries}, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def write_tensor(tensor: Float[Tensor, "..."], file: IO[bytes]) -> int:
    """Write the numbers of a tensor; return how many are not finite."""
    bad = 0
    flat = tensor.detach().cpu().view(-1)  # [...] -> [elements]
    for part in flat.split(PIECE_ELEMENTS):  # pieces of [elements]
        bad += count_bad(part)
        file.write(part.view(torch.uint8).numpy().data)
    return bad
