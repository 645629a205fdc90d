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
from jaxtyping import Int32, Int64
from torch import Tensor

from ropewalk.attention.copy_to_device import copy_to_device
from ropewalk.attention.cpu_schedule import sliced, split_layers
from ropewalk.attention.gathered_keys import GatheredKeys
from ropewalk.attention.schedule import BackwardInputs, Calls, KeyRows, QueryRows, Schedule, Scores
from ropewalk.partition.partition import Partition
from ropewalk.partition.segments import Ranges
from ropewalk.partition.tiles import ALWAYS, TileMask, Tiles


class CuSeqlens(NamedTuple):
    """Where runs laid end to end begin and end: [runs + 1], from 0, as varlen kernels want it; and as plain numbers."""

    tensor: Int32[Tensor, "ends"]
    listed: tuple[int, ...]

    @property
    def lengths(self) -> tuple[int, ...]:
        """Rows of each run."""
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
    """A kernel on ragged tiles: rows in, rows out."""

    def attend(
        self, query: QueryRows, key: KeyRows, value: KeyRows, tiles: VarlenTiles, scores: Scores
    ) -> tuple[Tensor, Tensor]:
        """Output [queries, heads, head_dim] and log-sum-exp [queries, heads] of each tile by itself."""

    def differentiate(
        self, inputs: BackwardInputs, key: KeyRows, value: KeyRows, tiles: VarlenTiles, scores: Scores
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of queries, keys and values; ``inputs.out`` and ``inputs.logsum`` are those over all tiles."""


@dataclass(frozen=True, slots=True)
class Run:
    """Runs of rows of a tensor, laid end to end: a slice where they are one run, else by index."""

    starts: tuple[int, ...]
    lengths: tuple[int, ...]
    index: Tensor | slice

    def take(self, tensor: Tensor) -> Tensor:
        """[rows, ...] -> [taken, ...]; a view where the rows are one run."""
        taken: Tensor = tensor[self.index] if isinstance(self.index, slice) else tensor.index_select(0, self.index)
        return taken

    def add(self, tensor: Tensor, parts: Tensor) -> None:
        """Add [taken, ...] to the rows in ``tensor``, run after run: runs may overlap."""
        for start, length, part in zip(self.starts, self.lengths, parts.split(self.lengths), strict=True):
            tensor[start : start + length] += part


@dataclass(frozen=True, slots=True)
class VarlenCall:
    """One launch of a ragged kernel."""

    query: Run
    key: Run
    tiles: VarlenTiles
    kernel: VarlenKernel = field(repr=False)

    def attend(self, query: QueryRows, key: KeyRows, value: KeyRows, scores: Scores) -> tuple[Tensor, Tensor]:
        """See schedule.Call."""
        taken = self.query.take(query), self.key.take(key), self.key.take(value)
        return self.kernel.attend(*taken, self.tiles, scores)

    def differentiate(
        self, inputs: BackwardInputs, key: KeyRows, value: KeyRows, scores: Scores
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See schedule.Call."""
        mine = BackwardInputs(
            *(self.query.take(each) for each in (inputs.query, inputs.grad, inputs.out, inputs.logsum))
        )
        return self.kernel.differentiate(mine, self.key.take(key), self.key.take(value), self.tiles, scores)

    def add_to_keys(self, total: Tensor, d_key: Tensor, d_value: Tensor) -> None:
        """See schedule.Call."""
        self.key.add(total, torch.cat([d_key, d_value], dim=1))


def schedule_varlen(partition: Partition, rank: int, *, kernel: VarlenKernel, device: torch.device) -> Schedule:
    """The rank's calls under a partition, all tiles of a layer in one."""
    lay = _Layer(kernel, device)
    steps = tuple(tuple(lay.layers(tiles)) for tiles in partition.tiles(rank))
    return Schedule(rank, lay.causal_tiles(partition.causal_tiles(rank), partition.local_tokens), steps)


def schedule_gathered(partition: Partition, rank: int, *, kernel: VarlenKernel, device: torch.device) -> Schedule:
    """One call for all of the rank's pieces, each on all the keys that it sees among own and received rows."""
    gathered = GatheredKeys(partition, rank)
    start, tokens, key, keys = gathered.find_visible_keys()
    nothing = Calls((), slice(None), None)
    if not len(start):  # the rank has padding only, and still takes part
        return Schedule(rank, nothing, ((), ()), gathered=True)
    ahead = keys - tokens
    window = np.full(len(start), -ALWAYS) if partition.window is None else ahead - partition.window + 1
    columns = np.stack([start, tokens, key, keys, ahead, window], axis=1)
    calls = Calls(
        (_Layer(kernel, device).call(columns),), _on_device(sliced(_spread_runs(start, tokens)), device), None
    )
    return Schedule(rank, nothing, ((), (calls,)), gathered=True)


@dataclass(frozen=True, slots=True)
class _Layer:
    """Lays tiles out, for one kernel on one device."""

    kernel: VarlenKernel
    device: torch.device

    def causal_tiles(self, tiles: Tiles, rows: int) -> Calls:
        """All triangles, which cover all rows but padding; that gets the row of zeros."""
        columns = tiles.columns[np.argsort(tiles.columns[:, 0], kind="stable")]
        if not len(columns):
            return Calls((), slice(None), None)
        covered, calls = int(columns[:, 1].sum()), (self.call(columns),)
        if covered == rows:
            return Calls(calls, slice(None), None)
        order = np.full(rows, covered)
        order[_spread_runs(columns[:, 0], columns[:, 1])] = np.arange(covered)
        return Calls(calls, slice(None), copy_to_device(order, self.device))

    def layers(self, tiles: Tiles) -> list[Calls]:
        """Other tiles, in as few calls as keep the queries of a call disjoint."""
        found = []
        for columns in split_layers(tiles):
            rows = sliced(_spread_runs(columns[:, 0], columns[:, 1]))
            found.append(Calls((self.call(columns),), _on_device(rows, self.device), None))
        return found

    def call(self, columns: Int64[np.ndarray, "tiles 6"]) -> VarlenCall:
        """One launch for tiles given as the columns of partition/tiles."""
        masks = [TileMask.from_columns(causal, window) for causal, window in columns[:, 4:].tolist()]
        queries, keys = (count_ends(columns[:, place], self.device) for place in (1, 3))
        query, key = (self.run(columns[:, place], columns[:, place + 1]) for place in (0, 2))
        return VarlenCall(query, key, VarlenTiles(queries, keys, tuple(masks)), self.kernel)

    def run(self, start: np.ndarray, length: np.ndarray) -> Run:
        """Runs of rows by their starts and lengths."""
        index = _on_device(sliced(_spread_runs(start, length)), self.device)
        return Run(tuple(start.tolist()), tuple(length.tolist()), index)


def count_ends(lengths: np.ndarray, device: torch.device) -> CuSeqlens:
    """Offsets of runs of these lengths."""
    ends = np.append(0, np.cumsum(lengths)).astype(np.int32)
    return CuSeqlens(copy_to_device(ends, device), tuple(ends.tolist()))


def _spread_runs(start: np.ndarray, length: np.ndarray) -> np.ndarray:
    """All indices of the runs, one run after the other."""
    return Ranges(start, start + length).expand()


def _on_device(rows: Tensor | slice, device: torch.device) -> Tensor | slice:
    return rows if isinstance(rows, slice) else copy_to_device(rows, device)
