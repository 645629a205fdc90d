"""A causal convolution within documents on several ranks: the last rows before a segment come from their owners.

A kernel of k taps reads a token and the k - 1 before it. Attention with a window of k keys reads the same rows, so the
partition with that window already says which rows travel, and attention's exchange carries them. For an installed
kernel, rows and received rows are laid out segment by segment, with k - 1 rows before each; zeros stand before a
document. The torch code does so for the first k - 1 tokens of a segment alone (slide_taps.py).
"""

from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Float, Int64
from torch import Tensor

from ropewalk.attention.copy_to_device import copy_to_device
from ropewalk.attention.exchange import fetch_needed, plan_traffic, return_needed
from ropewalk.partition.partition import Partition
from ropewalk.partition.ulysses import AnyPartition
from ropewalk.recurrence.installed_kernels import choose_convolution
from ropewalk.recurrence.segment_scan import require_tokens
from ropewalk.recurrence.slide_taps import Edges, Received, Rows, SlideTaps, Taps


def convolve(
    rows: Rows,
    taps: Taps,
    bias: Float[Tensor, "channels"] | None = None,
    *,
    partition: AnyPartition,
    group: dist.ProcessGroup | None,
) -> Rows:
    """Each channel's causal convolution within documents for this rank's tokens, in the partition's local order.

    The last of ``taps`` belongs to the token itself. Differentiable, in any floating dtype; padding gets zeros. Raises
    UserError for a partition that cuts heads.
    """
    count = taps.shape[1]
    windowed = require_tokens(partition).with_window(count)
    assert windowed.ranks == (1 if group is None else dist.get_world_size(group)), "the group's ranks share the tokens"
    assert len(rows) == windowed.local_tokens, "a rank brings the tokens that it owns"
    rank = 0 if group is None else dist.get_rank(group)
    received = rows.new_empty(0, rows.shape[1])
    if windowed.exchanges:
        assert group is not None
        received = _Halo.apply(rows, windowed, rank, group)
    lines = _plan_lines(windowed, rank, count, rows.device)
    kernel = choose_convolution(dtype=rows.dtype, channels=rows.shape[1], taps=count, device=rows.device)
    if kernel is None:
        slid: Tensor = SlideTaps.apply(rows, received, taps, bias, lines.edges)
        return slid
    # [local, channels], a row of zeros and [received, channels] -> [lines, channels]
    laid = torch.cat([rows, rows.new_zeros(1, rows.shape[1]), received]).index_select(0, lines.source)
    # [lines, channels] -> [1, channels, lines], whose last dimension but one is contiguous, and back
    found = kernel(laid.T[None], taps, bias)[0].T[count - 1 :]
    # [lines - taps + 1, channels] and a row of zeros -> [local, channels]
    ended: Tensor = torch.cat([found, found.new_zeros(1, rows.shape[1])]).index_select(0, lines.places)
    return ended


@dataclass(frozen=True, slots=True)
class _Lines:
    """``source`` of each line: a local row, the row of zeros, or a received row. ``places`` of the local tokens."""

    source: Int64[Tensor, "lines"]
    places: Int64[Tensor, "local"]
    edges: Edges


class _Halo(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Rows, partition: Partition, rank: int, group: dist.ProcessGroup) -> Received:
        ctx.of = partition, rank, group
        (block,) = fetch_needed(rows[:, None], plan_traffic(partition, rank, rows.device), group)
        return block[:, 0]  # [received, 1, channels] -> [received, channels]

    @staticmethod
    def backward(ctx: Any, grad: Received) -> tuple[Rows, None, None, None]:
        partition, rank, group = ctx.of
        traffic = plan_traffic(partition, rank, grad.device)
        total = return_needed(iter([grad[:, None]]), traffic, group, grad.dtype)()
        return total[:, 0], None, None, None  # [local, 1, channels] -> [local, channels]


_lines: WeakKeyDictionary[Partition, dict[tuple[int, torch.device], _Lines]] = WeakKeyDictionary()


def _plan_lines(windowed: Partition, rank: int, taps: int, device: torch.device) -> _Lines:
    of_partition = _lines.setdefault(windowed, {})
    if (rank, device) not in of_partition:
        of_partition[rank, device] = _lay_lines(windowed, rank, taps, device)
    return of_partition[rank, device]


def _lay_lines(windowed: Partition, rank: int, taps: int, device: torch.device) -> _Lines:
    segments, local_tokens = windowed.segments, windowed.local_tokens
    received = windowed.needed_keys.of_rank(rank).expand()
    source, places, at = [], np.full(local_tokens, -1), 0
    for index in np.flatnonzero((segments.owner == rank) & (segments.document >= 0)):
        start, stop, begin = (each[index] for each in (segments.ranges.start, segments.ranges.stop, segments.begin))
        halo = np.arange(start - taps + 1, start)
        owner, local = windowed.localise(np.maximum(halo, begin))
        place = np.searchsorted(received, halo)
        of_halo = np.where(owner == rank, local, local_tokens + 1 + place)
        own = segments.local[index] + np.arange(stop - start)
        source += [np.where(halo < begin, local_tokens, of_halo), own]
        places[own] = at + np.arange(stop - start)  # where the token's window begins
        at += stop - start + taps - 1
    # [taps - 1] and [tokens] of each segment -> [lines]
    lines = np.concatenate([*source, np.full(taps - 1, local_tokens)])
    places = np.where(places < 0, len(lines) - taps + 1, places)
    edges = _find_edges(lines, places, local_tokens, taps, device)
    return _Lines(copy_to_device(lines, device), copy_to_device(places, device), edges)


def _find_edges(
    lines: Int64[np.ndarray, "lines"],
    places: Int64[np.ndarray, "local"],
    local_tokens: int,
    taps: int,
    device: torch.device,
) -> Edges:
    """Tokens whose window is not made of the rows just before them, with that window."""
    empty = places == len(lines) - taps + 1
    # [taps, channels] of each token -> [local, taps]
    windows = lines[np.where(empty, 0, places)[:, None] + np.arange(taps)]
    before = np.arange(local_tokens)[:, None] - np.arange(taps)[::-1]
    tokens = np.flatnonzero((windows != before).any(1) & ~empty)
    source = windows[tokens].reshape(-1)
    near = np.unique(source[source < local_tokens])
    source = np.where(source < local_tokens, np.searchsorted(near, source), source - local_tokens + len(near))
    arrays = tokens, near, source, np.flatnonzero(empty)
    return Edges(*(copy_to_device(each, device) for each in arrays))
