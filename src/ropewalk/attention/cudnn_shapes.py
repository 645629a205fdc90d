"""The tiles that cuDNN gets: those of a closed set of shapes.

cuDNN is faster on Hopper for long tiles (LongCA-bench: 1.6 times FlashAttention 2 at 32Ki), but it plans a graph for
each shape that it has not seen: 0.4 to 1 s, in the forward and in the backward thread. A pack's documents have a new
length each. So a pack's causal tiles are padded up to one of a few sizes where that is cheaper than flash attention,
and its other tiles go to flash attention. Where all documents have one length, as in sequences of one document, tiles
have the same few shapes in every such batch, and cuDNN takes them as they are.
"""

from collections.abc import Callable
from dataclasses import replace
from itertools import starmap

import numpy as np
import torch

from ropewalk.attention.cudnn_kernel import split_tiles
from ropewalk.attention.schedule import AttentionSchedule, Call, Calls
from ropewalk.attention.varlen_schedule import VarlenCall
from ropewalk.partition.partition import Partition
from ropewalk.partition.tiles import TileMask

LEAST_TOKENS = 4096
"""Shorter tiles are not worth a launch each."""
GAIN = 1.5
"""How much faster cuDNN computes a long tile than FlashAttention 2."""
SIZES = 4
"""Lengths to which causal tiles are padded, each about 2 ** (1/4) times the next."""
GRAIN_TOKENS = 128
"""Those lengths are multiples of it, as the kernel's own blocks are."""

_CAUSAL, _FULL = TileMask(0, None), TileMask(None, None)

Choose = Callable[[int, int, TileMask], int | None]


def list_sizes(local_tokens: int) -> tuple[int, ...]:
    """The lengths to which causal tiles are padded on a rank with ``local_tokens`` tokens, ascending."""
    steps = np.arange(SIZES - 1, -1, -1) / 4
    rounded = np.ceil(local_tokens * 2.0**-steps / GRAIN_TOKENS) * GRAIN_TOKENS
    return tuple(int(size) for size in np.minimum(rounded, local_tokens) if size >= LEAST_TOKENS)


def choose_padding(partition: Partition) -> Choose:
    """Which tiles of a partition cuDNN gets: for a tile's queries, keys and mask the tokens to add, None for no."""
    sizes, even = list_sizes(partition.local_tokens), _has_one_length(partition)

    def choose(queries: int, keys: int, mask: TileMask) -> int | None:
        if min(queries, keys) < LEAST_TOKENS or mask not in (_CAUSAL, _FULL):
            return None
        if even:
            return 0
        padded = next((size for size in sizes if size >= queries), None)
        if mask == _FULL or padded is None or padded**2 > GAIN * queries**2:
            return None
        return padded - queries

    return choose


def split_calls(schedule: AttentionSchedule, choose: Choose, device: torch.device) -> AttentionSchedule:
    """The schedule, whose calls give cuDNN the tiles that ``choose`` says."""

    def change(calls: Calls) -> Calls:
        return replace(calls, calls=tuple(_split(call, choose, device) for call in calls.calls))

    steps = tuple(tuple(change(calls) for calls in layers) for layers in schedule.steps)
    return replace(schedule, causal_tiles=change(schedule.causal_tiles), steps=steps)


def _split(call: Call, choose: Choose, device: torch.device) -> Call:
    assert isinstance(call, VarlenCall)
    tiles = call.tiles
    padding = list(starmap(choose, zip(tiles.queries.lengths, tiles.keys.lengths, tiles.masks, strict=True)))
    if all(each is None for each in padding):
        return call
    return replace(call, kernel=split_tiles(tiles, padding, device))


def _has_one_length(partition: Partition) -> bool:
    """Whether all documents have one length and there is no padding."""
    segments = partition.segments
    lengths = np.bincount(segments.begin, weights=segments.ranges.length)
    return bool((segments.document >= 0).all()) and len(np.unique(lengths[lengths > 0])) == 1
