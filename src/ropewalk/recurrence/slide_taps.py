"""A causal convolution within segments, in plain torch: over all rows as if they were one line, then at its edges.

An edge is a token with fewer than ``taps - 1`` tokens before it in its segment. There are few, so they alone are laid
out with the rows before them, which may have come from other ranks; all others read the rows where they lie. Each tap
is one multiplication and addition of a tile that stays in a CPU's cache. The backward is written by hand: autograd
would make a gradient as large as all rows for each tap.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

Rows = Float[Tensor, "local channels"]
Received = Float[Tensor, "received channels"]
Taps = Float[Tensor, "channels taps"]
Bias = Float[Tensor, "channels"] | None
_TILE_NUMBERS = 1 << 16
"""Of one tile on a CPU: 256 KiB in float32, and a tile has about four."""


@dataclass(frozen=True, slots=True)
class Edges:
    """Local ``tokens`` at an edge, and for each of their taps the place of its row among the local rows ``near``, one
    row of zeros, and the received rows. ``padding`` are the local rows without a token."""

    tokens: Int64[Tensor, "edges"]
    near: Int64[Tensor, "near"]
    source: Int64[Tensor, "windows"]
    padding: Int64[Tensor, "padding"]


class SlideTaps(torch.autograd.Function):
    """``apply(rows, received, taps, bias, edges)`` -> the convolution of each local row; zeros for padding."""

    @staticmethod
    def forward(ctx: Any, rows: Rows, received: Received, taps: Taps, bias: Bias, edges: Edges) -> Rows:
        windows = _lay_windows(rows, received, edges, taps.shape[1])
        ctx.save_for_backward(rows, taps, windows)
        ctx.edges, ctx.received, ctx.biased = edges, received.shape, bias is not None
        weights, sums = _by_tap(taps), torch.empty_like(rows)
        own = weights[-1]
        for at in _tile(rows):
            if bias is None:
                torch.mul(rows[at], own, out=sums[at])
            else:
                torch.addcmul(bias, rows[at], own, out=sums[at])
            for back in range(1, len(weights)):
                here = slice(max(at.start, back), at.stop)
                sums[here].addcmul_(rows[here.start - back : here.stop - back], weights[-1 - back])
        found = (windows * weights).sum(1)
        # [edges, channels] of the edges -> [local, channels]
        sums.index_copy_(0, edges.tokens, found if bias is None else found + bias)
        return sums.index_fill_(0, edges.padding, 0)

    @staticmethod
    def backward(ctx: Any, grad: Rows) -> tuple[Rows, Received, Taps, Bias, None]:
        rows, taps, windows = ctx.saved_tensors
        edges, weights = ctx.edges, _by_tap(taps)
        grad = grad.index_fill(0, edges.padding, 0)
        to_bias = grad.sum(0) if ctx.biased else None
        # [local, channels] -> [edges, channels]
        at_edges = grad.index_select(0, edges.tokens)
        grad.index_fill_(0, edges.tokens, 0)
        to_rows, to_weights = torch.empty_like(rows), (windows * at_edges[:, None]).sum(0)
        for at in _tile(rows):
            torch.mul(grad[at], weights[-1], out=to_rows[at])
            to_weights[-1] += (grad[at] * rows[at]).sum(0)
            for back in range(1, len(weights)):
                stop = min(at.stop + back, len(rows))
                later, here = grad[at.start + back : stop], slice(at.start, max(at.start, stop - back))
                to_rows[here].addcmul_(later, weights[-1 - back])
                to_weights[-1 - back] += (later * rows[here]).sum(0)
        of_windows = (at_edges[:, None] * weights).flatten(0, 1)  # [edges, taps, channels] -> [windows, channels]
        pool = grad.new_zeros(len(edges.near) + 1 + ctx.received[0], rows.shape[1])
        # [windows, channels] -> [near + 1 + received, channels]
        pool.index_add_(0, edges.source, of_windows)
        # [near + 1 + received, channels] -> [near, channels], [1, channels] and [received, channels]
        near, _, to_received = pool.split([len(edges.near), 1, ctx.received[0]])
        # [near, channels] -> [local, channels]
        to_rows.index_add_(0, edges.near, near)
        return to_rows, to_received, to_weights.T, to_bias, None


def _by_tap(taps: Taps) -> Float[Tensor, "taps channels"]:
    return taps.T.contiguous()  # a row for each tap: a column would be read number by number


def _lay_windows(rows: Rows, received: Received, edges: Edges, taps: int) -> Float[Tensor, "edges taps channels"]:
    # [near, channels], a row of zeros and [received, channels] -> [windows, channels]
    pool = torch.cat([rows.index_select(0, edges.near), rows.new_zeros(1, rows.shape[1]), received])
    # [windows, channels] -> [edges, taps, channels]
    return pool.index_select(0, edges.source).view(-1, taps, rows.shape[1])


def _tile(rows: Rows) -> list[slice]:
    """Slices of the rows; one on a GPU, where each call costs more than memory does."""
    count, channels = rows.shape
    step = max(1, _TILE_NUMBERS // channels) if rows.device.type == "cpu" else max(1, count)
    return [slice(start, min(start + step, count)) for start in range(0, count, step)]
