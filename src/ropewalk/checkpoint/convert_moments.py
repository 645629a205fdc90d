"""Convert the optimizer's moments between 8 bits and float32 when a checkpoint and the optimizer differ.

``parallel.states`` may change between two sessions. So the moments are read in the form of the checkpoint, and then
converted to the form of the optimizer. This is done for a few matrices at a time. Where 8 bits are needed, all matrices
in both forms would not fit into memory.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed.tensor as sharded
from jaxtyping import Float32, Shaped
from torch import Tensor
from torch.distributed.tensor import DTensor

from ropewalk.checkpoint.eight_bit import BLOCK_ELEMENTS, SCALE, decode_moments, encode_moments
from ropewalk.checkpoint.state import MOMENTS
from ropewalk.parallel.rank_shards import map_shard, own_shard

_SLICE_ELEMENTS = 1 << 22
_BATCH_ELEMENTS = 1 << 28
"""The most elements that are held in both forms at a time. They are counted over the whole matrices, not per rank."""
_FORMS = {"torch.uint8", "torch.float32"}


def find_other_form(tensors: Mapping[str, Shaped[Tensor, "..."]], held: Mapping[str, Any]) -> list[str]:
    """Return the names of those ``tensors`` that are moments and that a checkpoint holds in the other form.

    ``held`` gives dtype and shape of each tensor in the checkpoint, by name.
    """
    return [
        name
        for name, tensor in tensors.items()
        if name.partition("/")[0] in MOMENTS and name in held and {str(tensor.dtype), held[name][0]} == _FORMS
    ]


def name_scale(name: str) -> str:
    """Return the name of the scales that belong to the moment ``exp_avg/NAME``."""
    moment, _, rest = name.partition("/")
    return f"{moment}{SCALE}/{rest}"


def read_other_form(
    names: Sequence[str],
    tensors: Mapping[str, Shaped[Tensor, "..."]],
    fill: Callable[[Mapping[str, Shaped[Tensor, "..."]]], None],
) -> None:
    """Read the moments ``names`` in the checkpoint's form and convert them into ``tensors``, in place.

    ``fill`` reads the tensors that it is given from the checkpoint.
    """
    for batch in _batch(names, tensors):
        stored: dict[str, Tensor] = {}
        for name in batch:
            ours = tensors[name]
            if ours.dtype == torch.uint8:
                stored[name] = map_shard(ours, torch.zeros_like, dtype=torch.float32)
            else:
                stored[name] = map_shard(ours, torch.zeros_like, dtype=torch.uint8)
                stored[name_scale(name)] = zeros_by_row(ours, (len(ours), count_blocks(ours)))
        fill(stored)
        for name in batch:
            _write_over(name, tensors, stored)


def zeros_by_row(like: Shaped[Tensor, "rows ..."], shape: tuple[int, int]) -> Float32[Tensor, "rows blocks"]:
    """Return float32 zeros of ``shape`` whose matrix rows are on the same ranks and devices as those of ``like``."""
    if not isinstance(like, DTensor):
        return torch.zeros(shape, device=like.device)
    if own_shard(like).device.type == like.device_mesh.device_type:
        return sharded.zeros(shape, device_mesh=like.device_mesh, placements=like.placements)
    # States on the host: as in map_shard, only torch's dispatch leaves a shard on another device than the mesh's.
    return torch.zeros_like(like.detach().flatten(1)[:, :1].expand(shape), dtype=torch.float32)


def count_blocks(matrix: Shaped[Tensor, "rows ..."]) -> int:
    """Return the number of scales of a row. It is found by the shape, as a row of a DTensor is gathered by messages."""
    return math.ceil(math.prod(matrix.shape[1:]) / BLOCK_ELEMENTS)


def _batch(names: Sequence[str], tensors: Mapping[str, Shaped[Tensor, "..."]]) -> Iterator[list[str]]:
    """Split ``names`` into batches by the size of the whole tensors, so that all ranks read the same batches."""
    batch: list[str] = []
    left = _BATCH_ELEMENTS
    for name in names:
        if batch and tensors[name].numel() > left:
            yield batch
            batch, left = [], _BATCH_ELEMENTS
        batch.append(name)
        left -= tensors[name].numel()
    if batch:
        yield batch


@torch.no_grad()
def _write_over(
    name: str, tensors: Mapping[str, Shaped[Tensor, "..."]], stored: Mapping[str, Shaped[Tensor, "..."]]
) -> None:
    signed = name.partition("/")[0] == MOMENTS[0]
    ours, theirs = own_shard(tensors[name]).flatten(1), own_shard(stored[name]).flatten(1)
    narrow = tensors[name].dtype == torch.uint8
    scale = own_shard(tensors[name_scale(name)] if narrow else stored[name_scale(name)])
    rows = max(1, _SLICE_ELEMENTS // max(1, ours.shape[1]))
    for first in range(0, len(ours), rows):
        part = slice(first, first + rows)
        if narrow:
            ours[part], scale[part] = encode_moments(theirs[part], signed=signed)
        else:
            ours[part] = decode_moments(theirs[part], scale[part], signed=signed)
