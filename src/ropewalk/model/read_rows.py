"""Read rows of a stored tensor from its file into a tensor that exists already.

A safetensors file holds a tensor's numbers in one piece, row after row. So a rank reads only the rows of its shard, in
small pieces, straight into the shard. The file is read and not mapped into memory: the pages of a mapped file would
count as the memory of the process. A tensor of a model may lie in several stored ones; its rows are then read from all
of them (expert_files.py).
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

STORED_TYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
PIECE_ELEMENTS = 1 << 20
"""The number of elements that are read, converted and checked at a time."""


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """The file of a tensor, with the shape and type from its header. Its first byte is at ``begin`` in the file.

    A ``turned`` tensor [matrices, rows, width] lies as [matrices, width, rows] in the file.
    """

    file: Path
    shape: tuple[int, ...]
    dtype: str
    begin: int
    turned: bool = False

    def turn(self) -> "StoredTensor":
        """The same tensor [matrices, rows, width] as [matrices, width, rows]."""
        matrices, rows, width = self.shape
        return replace(self, shape=(matrices, width, rows), turned=not self.turned)


@dataclass(frozen=True, slots=True)
class JoinedTensor:
    """A tensor [matrices, rows, width]: each matrix consists of stored parts [part_rows, width], one below the other.

    All parts of one place have the same shape and type.
    """

    parts: tuple[tuple[StoredTensor, ...], ...]

    @property
    def file(self) -> Path:
        """The file of the first part, for messages."""
        return self.parts[0][0].file

    @property
    def dtype(self) -> str:
        return self.parts[0][0].dtype

    @property
    def shape(self) -> tuple[int, ...]:
        first = self.parts[0]
        return (len(self.parts), sum(part.shape[0] for part in first), *first[0].shape[1:])


@dataclass(frozen=True, slots=True)
class StackedTensor:
    """A tensor [rows, ...] whose rows lie in several stored tensors of one type, one below the other."""

    parts: tuple[StoredTensor, ...]

    @property
    def file(self) -> Path:
        """The file of the first part, for messages."""
        return self.parts[0].file

    @property
    def dtype(self) -> str:
        return self.parts[0].dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return (sum(part.shape[0] for part in self.parts), *self.parts[0].shape[1:])


AnyStored = StoredTensor | JoinedTensor | StackedTensor


def read_header(path: Path) -> tuple[dict[str, Any], int]:
    """Return the header of a whole safetensors file, and the place of the first byte behind it."""
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        return json.loads(file.read(header_bytes)), 8 + header_bytes


def read_begins(path: Path) -> dict[str, int]:
    """Return the place of the first byte of each tensor in a whole safetensors file."""
    header, begin = read_header(path)
    return {name: begin + entry["data_offsets"][0] for name, entry in header.items() if name != "__metadata__"}


@torch.no_grad()
def read_rows(stored: AnyStored, out: Float[Tensor, "..."], *, first_row: int = 0) -> int:
    """Fill ``out`` with the rows from ``first_row`` on, in the type of ``out``; return how many are not finite.

    ``out`` is contiguous, on any device, and has the shape of the stored tensor but for the number of rows. A row of a
    ``JoinedTensor`` or of a turned tensor is one of its matrices.
    """
    assert out.is_contiguous() and out.shape[1:] == stored.shape[1:]
    if isinstance(stored, JoinedTensor):
        # [matrices, rows, width] -> matrices x [rows, width] -> parts x [part_rows, width]
        return sum(
            read_rows(part, place)
            for parts, matrix in zip(stored.parts[first_row : first_row + len(out)], out, strict=True)
            for part, place in zip(parts, matrix.split([each.shape[0] for each in parts]), strict=True)
        )
    if isinstance(stored, StackedTensor):
        return _read_stacked(stored, out, first_row)
    if stored.turned:
        held = torch.empty(1, *reversed(stored.shape[1:]), dtype=STORED_TYPES[stored.dtype])
        bad = 0
        for number, matrix in enumerate(out, start=first_row):
            read_rows(stored.turn(), held, first_row=number)
            matrix.copy_(held[0].T)  # [width, rows] -> [rows, width]
            bad += count_bad(matrix)
        return bad
    flat, dtype, bad = out.view(-1), STORED_TYPES[stored.dtype], 0
    piece = torch.empty(min(PIECE_ELEMENTS, len(flat)), dtype=dtype)
    with stored.file.open("rb", buffering=0) as file:
        file.seek(stored.begin + first_row * math.prod(stored.shape[1:]) * dtype.itemsize)
        for start in range(0, len(flat), PIECE_ELEMENTS):
            part = flat[start : start + PIECE_ELEMENTS]
            direct = part.device.type == "cpu" and part.dtype == dtype
            target = part if direct else piece[: len(part)]
            _read_into(file, target, stored)
            if not direct:
                part.copy_(target)
            bad += count_bad(part)  # after the conversion: a large number becomes infinite in float16
    return bad


def _read_stacked(stored: StackedTensor, out: Float[Tensor, "..."], first_row: int) -> int:
    """The rows of ``out`` from each part that has some of them."""
    bad, begin = 0, 0
    for part in stored.parts:
        first, last = (min(max(row - begin, 0), part.shape[0]) for row in (first_row, first_row + len(out)))
        if first < last:
            place = begin + first - first_row
            bad += read_rows(part, out[place : place + last - first], first_row=first)
        begin += part.shape[0]
    return bad


def read_tensor(stored: Mapping[str, AnyStored], name: str) -> Float[Tensor, "..."]:
    """Return one whole tensor, in its stored type."""
    out = torch.empty(stored[name].shape, dtype=STORED_TYPES[stored[name].dtype])
    read_rows(stored[name], out)
    return out


def are_equal(one: AnyStored, other: AnyStored) -> bool:
    """Return whether two stored tensors of one shape hold the same numbers. Only a few rows are held at a time."""
    for first, rows in _cut(one.shape):
        both = torch.empty(2, rows, *one.shape[1:])  # float32 holds each of the types exactly
        for stored, out in zip((one, other), both, strict=True):
            read_rows(stored, out, first_row=first)
        if not torch.equal(*both):
            return False
    return True


def count_stored_bad(stored: StoredTensor) -> int:
    """Return how many values of a stored tensor are not finite. Only a few rows are held at a time."""
    bad = 0
    for first, rows in _cut(stored.shape):
        part = torch.empty(rows, *stored.shape[1:], dtype=STORED_TYPES[stored.dtype])
        bad += read_rows(stored, part, first_row=first)
    return bad


def _cut(shape: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """Yield the first row and the number of rows of each piece of a tensor."""
    step, rows = max(1, PIECE_ELEMENTS // max(1, math.prod(shape[1:]))), shape[0] if shape else 1
    for first in range(0, rows, step):
        yield first, min(step, rows - first)


def count_bad(tensor: Float[Tensor, "..."]) -> int:
    """Return the number of values that are not finite."""
    # One pass, no copy: a sum of finite numbers in float32 is finite unless the numbers are extremely large.
    return 0 if torch.isfinite(tensor.sum(dtype=torch.float32)) else int((~torch.isfinite(tensor)).sum())


def _read_into(file: object, target: Float[Tensor, "..."], stored: StoredTensor) -> None:
    view, done = target.view(torch.uint8).numpy().data, 0
    while done < len(view):
        count = file.readinto(view[done:])  # type: ignore[attr-defined]
        if not count:
            raise OSError(f"{stored.file} ends inside a tensor")
        done += count
