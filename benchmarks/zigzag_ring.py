"""The peer: a ring that knows documents, each cut head-and-tail over the ranks, with torch's flash kernel of the CPU.

It is the best ring that users have for packs: it computes only the mask's pairs, and every rank has the same number of
them. Every rank holds chunk r and chunk 2P - 1 - r of each document, so each length must divide by 2P. All keys travel
all the way round, ahead of the step that reads them, and keys' gradients travel in float32. It is written from the
published description of ring-flash-attention's zigzag for packed rows, and shares no code with ropewalk's attention.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

_aten = torch.ops.aten
_flash = _aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = _aten._scaled_dot_product_flash_attention_for_cpu_backward


def round_pack(document: np.ndarray, multiple: int) -> np.ndarray:
    """The pack with every document's length rounded down to ``multiple``, at least one; the last one fills the row."""
    lengths = np.maximum(np.unique(document, return_counts=True)[1] // multiple, 1) * multiple
    kept = lengths[np.cumsum(lengths) <= document.size]
    left = document.size - kept.sum()
    return np.repeat(np.arange(len(kept) + (left > 0)), [*kept, *([left] if left else [])])[None].astype(np.int32)


def own_zigzag_rows(document: np.ndarray, *, ranks: int, rank: int) -> np.ndarray:
    """Packed indices of a rank's tokens: of each document its chunk ``rank``, then its chunk 2P - 1 - ``rank``."""
    rows = []
    for start, stop in pairwise(_find_ends(document)):
        chunks = np.arange(start, stop).reshape(2 * ranks, -1)
        rows += [chunks[rank], chunks[2 * ranks - 1 - rank]]
    return np.concatenate(rows)


def _find_ends(document: np.ndarray) -> list[int]:
    flat = document.reshape(-1)
    return [0, *(np.flatnonzero(np.diff(flat)) + 1).tolist(), flat.size]


class ZigzagRing:
    """Attention [1, heads, rows, head_dim] over a pack, differentiable."""

    def __init__(self, document: np.ndarray, group: dist.ProcessGroup) -> None:
        self.group, self.ranks, self.rank = group, dist.get_world_size(group), dist.get_rank(group)
        self.ends = [end // self.ranks for end in _find_ends(document)]

    def attend(self, query: Tensor, key: Tensor, value: Tensor, *, scale: float) -> Tensor:
        out: Tensor = _Zigzag.apply(query, key, value, self, scale)
        return out

    def list_blocks(self, step: int) -> list[tuple[slice, slice, bool]]:
        """Queries, keys and causality of each document's block, on the keys of the rank ``step`` before this one."""
        blocks = []
        for start, stop in pairwise(self.ends):
            middle = (start + stop) // 2
            if step == 0:
                blocks.append((slice(start, stop), slice(start, stop), True))
            elif step <= self.rank:  # an earlier rank: its tail comes after all queries
                blocks.append((slice(start, stop), slice(start, middle), False))
            else:  # a later rank: only this rank's tail comes after its keys
                blocks.append((slice(middle, stop), slice(start, stop), False))
        return blocks

    def pass_on(self, tensors: Sequence[Tensor]) -> tuple[list[Tensor], list[Any]]:
        """Send to the next rank and receive from the one before; the tensors are whole when the works are done."""
        incoming, after, before = [torch.empty_like(each) for each in tensors], self.rank + 1, self.rank - 1
        operations = [dist.P2POp(dist.isend, each, after % self.ranks, self.group) for each in tensors]
        operations += [dist.P2POp(dist.irecv, each, before % self.ranks, self.group) for each in incoming]
        return incoming, dist.batch_isend_irecv(operations)


class _Zigzag(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, ring: ZigzagRing, scale: float) -> Tensor:
        key, value = key.contiguous(), value.contiguous()
        held, out, total = [key, value], torch.zeros_like(query, dtype=torch.float32), None
        for step in range(ring.ranks):
            ahead, works = ring.pass_on(held) if step + 1 < ring.ranks else (held, [])
            for rows, keys, causal in ring.list_blocks(step):
                part, logsum = _flash(
                    query[:, :, rows], held[0][:, :, keys], held[1][:, :, keys], 0.0, causal, scale=scale
                )
                if total is None:
                    total = query.new_full(query.shape[:3], -torch.inf, dtype=torch.float32)
                merged = torch.logaddexp(total[:, :, rows], logsum)
                out[:, :, rows] *= (total[:, :, rows] - merged).exp()[..., None]
                out[:, :, rows] += part * (logsum - merged).exp()[..., None]
                total[:, :, rows] = merged
            for work in works:
                work.wait()
            held = ahead
        result = out.to(query.dtype)
        ctx.save_for_backward(query, key, value, result, total)
        ctx.ring, ctx.scale = ring, scale
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out, total = ctx.saved_tensors
        ring, held = ctx.ring, [key, value]
        d_query = torch.zeros_like(query, dtype=torch.float32)
        d_held = [torch.zeros_like(each, dtype=torch.float32) for each in held]
        for step in range(ring.ranks):
            ahead, works = ring.pass_on(held) if step + 1 < ring.ranks else (held, [])
            for rows, keys, causal in ring.list_blocks(step):
                parts = _flash_backward(
                    grad[:, :, rows], query[:, :, rows], held[0][:, :, keys], held[1][:, :, keys], out[:, :, rows],
                    total[:, :, rows], 0.0, causal, scale=ctx.scale,
                )  # fmt: skip
                d_query[:, :, rows] += parts[0]
                d_held[0][:, :, keys] += parts[1]
                d_held[1][:, :, keys] += parts[2]
            for work in works:
                work.wait()
            d_held, works = ring.pass_on(d_held)  # after the last step they are at home
            for work in works:
                work.wait()
            held = ahead
        return d_query.to(query.dtype), d_held[0].to(key.dtype), d_held[1].to(value.dtype), None, None
