"""A rank's schedule for varlen kernels: one call for all causal tiles, one for all full tiles of a step; or one call
for all tiles once all keys are there.

One key may be read twice: two segments of one document have two tiles on the same keys. Such keys are laid out once
for each tile, and their gradients are added range after range, in order, so that sums are the same in every run.
"""

from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int32, Int64
from torch import Tensor

from ropewalk.attention.copy_to_device import copy_to_device
from ropewalk.attention.cpu_schedule import split_layers
from ropewalk.attention.gathered_keys import GatheredKeys
from ropewalk.attention.schedule import (
    AttentionSchedule,
    BackwardInputs,
    CallGradients,
    CallResults,
    Calls,
    KeyTokens,
    QueryTokens,
    Scores,
)
from ropewalk.attention.token_selection import TokenSelection, index_tokens, select_ranges
from ropewalk.core.ranges import expand_ranges
from ropewalk.partition.partition import Partition
from ropewalk.partition.tiles import ALWAYS, TileMask, Tiles
from ropewalk.partition.token_ranges import TokenRanges


class CuSeqlens(NamedTuple):
    """Where ranges laid end to end begin and end, from 0, as varlen kernels want it; and as plain numbers."""

    tensor: Int32[Tensor, "ranges+1"]
    listed: tuple[int, ...]

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of each range."""
        return tuple(stop - start for start, stop in pairwise(self.listed))


@dataclass(frozen=True, slots=True)
class VarlenTiles:
    """Tiles concatenated. The i-th has the i-th range of queries and of keys, under ``masks[i]``."""

    queries: CuSeqlens
    keys: CuSeqlens
    masks: tuple[TileMask, ...]

    @property
    def full(self) -> bool:
        """Whether every query of every tile sees all of its keys."""
        return all(each == TileMask(None, None) for each in self.masks)

    def find_window(self) -> int | None:
        """How many keys every query sees at most, itself included; None for all. Its last key is always the query.

        Flash kernels know only tiles of this kind, whose last query stands at the last key, and full ones.
        """
        ahead = [keys - queries for queries, keys in zip(self.queries.lengths, self.keys.lengths, strict=True)]
        causal, windows = zip(*self.masks, strict=True)
        assert list(causal) == ahead, "a tile's last query stands at its last key"
        found = {None if window is None else last - window + 1 for last, window in zip(ahead, windows, strict=True)}
        assert len(found) == 1, "all tiles have one window"
        return found.pop()


@runtime_checkable
class VarlenKernel(Protocol):
    """A kernel on varlen tiles: the tokens of all tiles in, laid end to end, and as many results out."""

    def attend(
        self, query: QueryTokens, key: KeyTokens, value: KeyTokens, tiles: VarlenTiles, scores: Scores
    ) -> tuple[QueryTokens, Float[Tensor, "queries heads"]]:
        """Output and log-sum-exp of each tile by itself."""

    def differentiate(
        self, inputs: BackwardInputs, key: KeyTokens, value: KeyTokens, tiles: VarlenTiles, scores: Scores
    ) -> tuple[QueryTokens, KeyTokens, KeyTokens]:
        """Gradients of queries, keys and values; ``inputs.out`` and ``inputs.logsum`` are those over all tiles."""


@dataclass(frozen=True, slots=True)
class VarlenCall:
    """One launch of a varlen kernel."""

    query: TokenSelection
    key: TokenSelection
    tiles: VarlenTiles
    kernel: VarlenKernel = field(repr=False)

    def attend(self, query: QueryTokens, key: KeyTokens, value: KeyTokens, scores: Scores) -> CallResults:
        """See schedule.Call."""
        taken = self.query.take(query), self.key.take(key), self.key.take(value)
        return self.kernel.attend(*taken, self.tiles, scores)

    def differentiate(self, inputs: BackwardInputs, key: KeyTokens, value: KeyTokens, scores: Scores) -> CallGradients:
        """See schedule.Call."""
        mine = BackwardInputs(
            *(self.query.take(each) for each in (inputs.query, inputs.grad, inputs.out, inputs.logsum))
        )
        return self.kernel.differentiate(mine, self.key.take(key), self.key.take(value), self.tiles, scores)

    def add_to_keys(
        self,
        total: Float[Tensor, "keys both_heads head_dim"],
        d_key: Float[Tensor, "read kv_heads head_dim"],
        d_value: Float[Tensor, "read kv_heads head_dim"],
    ) -> None:
        """See schedule.Call."""
        # twice [read, kv_heads, head_dim] -> [read, both_heads, head_dim]
        self.key.add(total, torch.cat([d_key, d_value], dim=1))


def schedule_varlen(
    partition: Partition, rank: int, *, kernel: VarlenKernel, device: torch.device
) -> AttentionSchedule:
    """The rank's calls under a partition, all tiles of a layer in one."""
    maker = _CallMaker(kernel, device)
    steps = tuple(tuple(maker.layers(tiles)) for tiles in partition.tiles(rank))
    return AttentionSchedule(rank, maker.causal_tiles(partition.causal_tiles(rank), partition.local_tokens), steps)


def schedule_gathered(
    partition: Partition, rank: int, *, kernel: VarlenKernel, device: torch.device
) -> AttentionSchedule:
    """One call for all of the rank's segments, each on all keys that it sees among own and received ones."""
    queries, keys = GatheredKeys(partition, rank).find_visible_keys()
    nothing = Calls((), slice(None), None)
    if not len(queries):  # the rank has padding only, and still takes part
        return AttentionSchedule(rank, nothing, ((), ()), gathered=True)
    ahead = keys.length - queries.length
    window = np.full(len(queries), -ALWAYS) if partition.window is None else ahead - partition.window + 1
    # six columns [tiles] -> [tiles, 6]
    columns = np.stack([queries.start, queries.length, keys.start, keys.length, ahead, window], axis=1)
    calls = Calls((_CallMaker(kernel, device).call(columns),), index_tokens(queries.expand(), device), None)
    return AttentionSchedule(rank, nothing, ((), (calls,)), gathered=True)


@dataclass(frozen=True, slots=True)
class _CallMaker:
    """Makes calls of tiles, for one kernel on one device."""

    kernel: VarlenKernel
    device: torch.device

    def causal_tiles(self, tiles: Tiles, local_tokens: int) -> Calls:
        """All causal tiles, which cover all of the rank's tokens but padding; that gets zeros."""
        columns = tiles.columns[np.argsort(tiles.columns[:, 0], kind="stable")]
        if not len(columns):
            return Calls((), slice(None), None)
        covered, calls = int(columns[:, 1].sum()), (self.call(columns),)
        if covered == local_tokens:
            return Calls(calls, slice(None), None)
        order = np.full(local_tokens, covered)
        order[expand_ranges(columns[:, 0], columns[:, 1])] = np.arange(covered)
        return Calls(calls, slice(None), copy_to_device(order, self.device))

    def layers(self, tiles: Tiles) -> list[Calls]:
        """Other tiles, in as few calls as keep the queries of a call disjoint."""
        found = []
        for columns in split_layers(tiles):
            tokens = index_tokens(expand_ranges(columns[:, 0], columns[:, 1]), self.device)
            found.append(Calls((self.call(columns),), tokens, None))
        return found

    def call(self, columns: Int64[np.ndarray, "tiles 6"]) -> VarlenCall:
        """One launch for tiles given as the columns of partition/tiles."""
        masks = [TileMask.from_columns(causal, window) for causal, window in columns[:, 4:].tolist()]
        queries, keys = (TokenRanges.from_lengths(columns[:, place], columns[:, place + 1]) for place in (0, 2))
        of_queries, of_keys = (count_ends(each.length, self.device) for each in (queries, keys))
        tiles = VarlenTiles(of_queries, of_keys, tuple(masks))
        return VarlenCall(
            select_ranges(queries, self.device), select_ranges(keys, self.device, adds=True), tiles, self.kernel
        )


def count_ends(lengths: Int64[np.ndarray, "ranges"], device: torch.device) -> CuSeqlens:
    """Offsets of ranges of these lengths, laid end to end."""
    ends = np.append(0, np.cumsum(lengths)).astype(np.int32)
    return CuSeqlens(copy_to_device(ends, device), tuple(ends.tolist()))
