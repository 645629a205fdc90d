"""Tokens of a rank laid into chunks, and back. Each way is a selection of rows, and so is its gradient.

A token has one slot and a slot at most one token. So the gradient of one way is the other way, where torch would add
rows up at random places.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ropewalk.recurrence.chunk_table import ChunkTable

LocalRows = Float[Tensor, "_ _ _"]
ChunkRows = Float[Tensor, "_ _ chunk _"]


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


def _lay(rows: LocalRows, table: ChunkTable) -> ChunkRows:
    if table.filled:
        slots = rows.index_select(0, table.tokens)
    else:  # [local, heads, width] and a row of zeros -> [slots, heads, width]
        slots = torch.cat([rows, rows.new_zeros(1, *rows.shape[1:])]).index_select(0, table.tokens)
    # [slots, heads, width] -> [chunks, heads, chunk, width]
    return slots.view(-1, table.chunk_tokens, *rows.shape[1:]).transpose(1, 2).contiguous()


def _collect(rows: ChunkRows, table: ChunkTable) -> LocalRows:
    slots = rows.transpose(1, 2).flatten(0, 1)  # [chunks, heads, chunk, width] -> [slots, heads, width]
    if table.padded:  # [slots, heads, width] and a row of zeros -> [slots + 1, heads, width]
        slots = torch.cat([slots, slots.new_zeros(1, *slots.shape[1:])])
    return slots.index_select(0, table.places)
