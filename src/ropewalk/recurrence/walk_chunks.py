"""The state chunk after chunk, all segments of a group at once, with the backward written by hand.

    with the delta rule     u = values - erasing h,   h after = kept h + fading^T u
    without                 h after = kept h + taken

A step is two small products for each head, so what a call costs counts: steps write in place, and the gradients that
need no order are one product over all chunks. Autograd would take about thirty calls a step.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ropewalk.recurrence.chunk_tiles import accumulate_product
from ropewalk.recurrence.read_states import ChunkValues, HeadKeys

Kept = Float[Tensor, "chunks heads _ 1"]
"""What multiplies the rows of a state: a number for each head, or for each of its key's dimensions."""
ChunkStates = Float[Tensor, "chunks heads key_dim width"]
Entries = Float[Tensor, "segments heads key_dim width"]
Added = Float[Tensor, "chunks heads chunk width"]


class WalkErasing(torch.autograd.Function):
    """``apply(values, erasing, fading, kept, entry, sizes)`` -> the state before each chunk, the values added in each,
    and the state after each segment. ``sizes`` are those of a ``SegmentGroup``.

    A state may be wider than the values, as [h | M] is. Keys only erase from the columns of M.
    """

    @staticmethod
    def forward(
        ctx: Any,
        values: ChunkValues,
        erasing: HeadKeys,
        fading: HeadKeys,
        kept: Kept,
        entry: Entries,
        sizes: list[int],
    ) -> tuple[ChunkStates, Added, Entries]:
        chunks, heads, tokens, narrow = values.shape
        before = entry.new_empty(chunks, *entry.shape[1:])
        added, state = (
            entry.new_zeros(chunks, heads, tokens, entry.shape[-1]),
            entry.clone(memory_format=torch.contiguous_format),
        )
        added[..., :narrow] = values
        rows = [_split(each, sizes) for each in (before, added, erasing, fading.transpose(-1, -2), kept)]
        for found, erased, erases, fades, keeps in zip(*rows, strict=True):
            now = state[: len(found) // heads].flatten(0, 1)
            found.copy_(now)
            accumulate_product(erased, erases, now, sign=-1)
            accumulate_product(now.mul_(keeps), fades, erased)
        ctx.save_for_backward(erasing, fading, kept, before, added)
        ctx.sizes, ctx.narrow = sizes, narrow
        return before, added, state

    @staticmethod
    def backward(
        ctx: Any, of_before: ChunkStates, of_added: Added, of_after: Entries
    ) -> tuple[ChunkValues, HeadKeys, HeadKeys, Kept, Entries, None]:
        erasing, fading, kept, before, added = ctx.saved_tensors
        state, after = of_after.clone(memory_format=torch.contiguous_format), torch.empty_like(before)
        of_added, heads = of_added.clone(memory_format=torch.contiguous_format), before.shape[1]
        given = (after, of_added, of_before, erasing.transpose(-1, -2), fading, kept)
        rows = [_split(each, ctx.sizes)[::-1] for each in given]
        for found, erased, grad, erases, fades, keeps in zip(*rows, strict=True):
            now = state[: len(found) // heads].flatten(0, 1)
            found.copy_(now)
            accumulate_product(erased, fades, now)
            accumulate_product(torch.addcmul(grad, keeps, now, out=now), erases, erased, sign=-1)
        to_erasing = torch.matmul(of_added, before.transpose(-1, -2)).neg_()
        to_fading = torch.matmul(added, after.transpose(-1, -2))
        return of_added[..., : ctx.narrow], to_erasing, to_fading, _sum_to(before * after, kept), state, None


class WalkAdding(torch.autograd.Function):
    """``apply(taken, kept, entry, sizes)`` -> the state before each chunk, and after each segment."""

    @staticmethod
    def forward(
        ctx: Any, taken: ChunkStates, kept: Kept, entry: Entries, sizes: list[int]
    ) -> tuple[ChunkStates, Entries]:
        before, state = torch.empty_like(taken), entry.clone(memory_format=torch.contiguous_format)
        for at in _steps(sizes):
            now = state[: at.stop - at.start]
            before[at] = now
            torch.addcmul(taken[at], kept[at], now, out=now)
        ctx.save_for_backward(kept, before)
        ctx.sizes = sizes
        return before, state

    @staticmethod
    def backward(ctx: Any, of_before: ChunkStates, of_after: Entries) -> tuple[ChunkStates, Kept, Entries, None]:
        kept, before = ctx.saved_tensors
        state, after = of_after.clone(memory_format=torch.contiguous_format), torch.empty_like(before)
        for at in _steps(ctx.sizes)[::-1]:
            now = state[: at.stop - at.start]
            after[at] = now
            torch.addcmul(of_before[at], kept[at], now, out=now)
        return after, _sum_to(before * after, kept), state, None


def _split(rows: Float[Tensor, "chunks heads _ _"], sizes: list[int]) -> tuple[Float[Tensor, "_ _ _"], ...]:
    """The chunks of each step: one call in place of a slice at each step."""
    # [chunks, heads, _, _] -> [chunks of a step * heads, _, _] of each step
    steps: tuple[Tensor, ...] = rows.flatten(0, 1).split([size * rows.shape[1] for size in sizes])
    return steps


def _steps(sizes: list[int]) -> list[slice]:
    """The chunks of each step."""
    stops = torch.tensor(sizes).cumsum(0).tolist()
    return [slice(stop - size, stop) for stop, size in zip(stops, sizes, strict=True)]


def _sum_to(rows: ChunkStates, like: Kept) -> Kept:
    return rows.sum(-1, keepdim=True) if like.shape[-2] > 1 else rows.sum((-2, -1), keepdim=True)
