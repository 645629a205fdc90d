"""Tokens of a rank laid into chunks, and back. Each way is a selection of rows, and so is its gradient.

A token has one slot and a slot at most one token. So the gradient of one way is the other way, where torch would add
rows up at random places.
"""

from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ropewalk.recurrence.chunk_table import ChunkTable

LocalRows = Float[Tensor, "_ _ _"]
ChunkRows = Float[Tensor, "_ _ chunk _"]
Index = Int64[Tensor, "_"]


class IntoChunks(torch.autograd.Function):
    """``apply(rows, table)`` -> rows in chunks; zeros where a chunk has no token."""

    @staticmethod
    def forward(ctx: Any, rows: LocalRows, table: ChunkTable) -> ChunkRows:
        ctx.table = table
        return _lay(rows, table)

    @staticmethod
    def backward(ctx: Any, grad: ChunkRows) -> tuple[LocalRows, None]:
        return _collect(grad, ctx.table), None


class FromChunks(torch.autograd.Function):
    """``apply(rows, table)``: the way back; zeros for padding."""

    @staticmethod
    def forward(ctx: Any, rows: ChunkRows, table: ChunkTable) -> LocalRows:
        ctx.table = table
        return _collect(rows, table)

    @staticmethod
    def backward(ctx: Any, grad: LocalRows) -> tuple[ChunkRows, None]:
        return _lay(grad, ctx.table), None


_indices: WeakKeyDictionary[ChunkTable, dict[int, tuple[Index, Index]]] = WeakKeyDictionary()


def _find_indices(table: ChunkTable, heads: int) -> tuple[Index, Index]:
    """For each head of each slot its row among those of all local tokens, and the way back.

    So rows move once, where a selection and a transposition would move them twice.
    """
    of_table = _indices.setdefault(table, {})
    if heads not in of_table:
        chunk, slots = table.chunk_tokens, len(table.tokens)
        head = torch.arange(heads, device=table.tokens.device)
        # [slots] -> [chunks, heads, chunk]; [local] -> [local, heads]
        there = table.tokens.view(-1, 1, chunk) * heads + head[:, None]
        back = ((table.places // chunk)[:, None] * heads + head) * chunk + (table.places % chunk)[:, None]
        back = torch.where((table.places == slots)[:, None], slots * heads, back)
        of_table[heads] = there.flatten(), back.flatten()
    return of_table[heads]


def _lay(rows: LocalRows, table: ChunkTable) -> ChunkRows:
    heads, width = rows.shape[1:]
    if not table.filled:
        # [local, heads, width] and a row of zeros -> [local + 1, heads, width]
        rows = torch.cat([rows, rows.new_zeros(1, heads, width)])
    # [local, heads, width] -> [chunks, heads, chunk, width]
    laid = rows.flatten(0, 1).index_select(0, _find_indices(table, heads)[0])
    return laid.view(-1, heads, table.chunk_tokens, width)


def _collect(rows: ChunkRows, table: ChunkTable) -> LocalRows:
    heads, width = rows.shape[1], rows.shape[3]
    flat = rows.flatten(0, 2)
    if table.padded:
        # [slots * heads, width] and a row of zeros -> [slots * heads + 1, width]
        flat = torch.cat([flat, flat.new_zeros(1, width)])
    # [slots * heads, width] -> [local, heads, width]
    return flat.index_select(0, _find_indices(table, heads)[1]).view(-1, heads, width)
