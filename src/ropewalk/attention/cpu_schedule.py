"""A rank's schedule for the CPU kernel: tiles of one shape are stacked into one call.

Causal tiles may be stacked with longer ones: a tile that is too long reads the tokens after its end, but its own
queries never see them. So hundreds of small documents of all lengths become a handful of calls.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from ropewalk.attention.cpu_kernel import attend_tiles, attend_tiles_backward
from ropewalk.attention.schedule import AttentionSchedule, BackwardInputs, Calls, KeyRows, QueryRows, Scores
from ropewalk.partition.partition import Partition
from ropewalk.partition.tiles import ALWAYS, TileMask, Tiles

_STACKED_BEYOND_TOKENS = 1024
"""Longer triangles keep their length: one call each costs nothing beside their work."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Equally long runs of rows of a tensor: ``step`` apart where they lie regularly, else by index."""

    starts: tuple[int, ...]
    length: int
    step: int
    index: Tensor | None

    def take(self, tensor: Tensor) -> Tensor:
        """[rows, ...] -> [tiles, length, ...]; a view where the runs are regular."""
        if self.index is not None:
            chosen: Tensor = tensor.index_select(0, self.index).unflatten(0, (-1, self.length))
            return chosen
        stride = tensor.stride()
        return tensor.as_strided(
            (len(self.starts), self.length, *tensor.shape[1:]),
            (self.step * stride[0], *stride),
            tensor.storage_offset() + self.starts[0] * stride[0],
        )

    def add(self, tensor: Tensor, parts: Tensor) -> None:
        """Add [tiles, length, ...] to the rows in ``tensor``, run after run: runs may overlap."""
        for start, part in zip(self.starts, parts, strict=True):
            tensor[start : start + self.length] += part


@dataclass(frozen=True, slots=True)
class StackedTiles:
    """Tiles of one shape. ``logsum`` is like ``query``, but rows beyond a triangle's own read the row of infinities."""

    query: Rows
    key: Rows
    logsum: Rows
    mask: TileMask

    def attend(self, query: QueryRows, key: KeyRows, value: KeyRows, scores: Scores) -> tuple[Tensor, Tensor]:
        """See schedule.Call."""
        out, logsum = attend_tiles(
            self.query.take(query), self.key.take(key), self.key.take(value), mask=self.mask, scale=scores.scale
        )
        return out.flatten(0, 1), logsum.flatten(0, 1)

    def differentiate(
        self, inputs: BackwardInputs, key: KeyRows, value: KeyRows, scores: Scores
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See schedule.Call."""
        d_query, d_key, d_value = attend_tiles_backward(
            self.query.take(inputs.grad),
            self.query.take(inputs.query),
            self.key.take(key),
            self.key.take(value),
            out=self.query.take(inputs.out),
            logsum=self.logsum.take(inputs.logsum),
            mask=self.mask,
            scale=scores.scale,
        )
        return d_query.flatten(0, 1), d_key.flatten(0, 1), d_value.flatten(0, 1)

    def add_to_keys(self, total: Tensor, d_key: Tensor, d_value: Tensor) -> None:
        """See schedule.Call."""
        self.key.add(total, torch.cat([d_key, d_value], dim=1).unflatten(0, (-1, self.key.length)))


def schedule_cpu(partition: Partition, rank: int) -> AttentionSchedule:
    """The rank's calls under a partition, tiles of one shape stacked."""
    causal_tiles, has_padding = _stack_triangles(partition.causal_tiles(rank), partition.local_tokens)
    steps = tuple(tuple(_stack(layer) for layer in split_layers(tiles)) for tiles in partition.tiles(rank))
    return AttentionSchedule(rank, causal_tiles, steps, has_padding)


def _stack_triangles(tiles: Tiles, rows: int) -> tuple[Calls, bool]:
    """Triangles of similar length in one call, their results cover all rows, padding gets the row of zeros; and whether
    any is stacked beyond its length."""
    start, length = tiles.columns[:, 0], tiles.columns[:, 1]
    size = _round_up(length)
    calls, order, offset, has_padding = [], np.full(rows, -1), 0, False
    for shared in np.unique(size):
        chosen = np.flatnonzero(size == shared)
        longest = int(length[chosen].max())
        query = _rows(start[chosen], longest, limit=rows)
        logsum = query
        if (length[chosen] < longest).any():
            inside = np.arange(longest) < length[chosen][:, None]
            index = np.where(inside, start[chosen][:, None] + np.arange(longest), rows)
            logsum, has_padding = Rows(query.starts, longest, 0, torch.from_numpy(index.reshape(-1))), True
        calls.append(StackedTiles(query, query, logsum, TileMask(0, None)))
        within, counted = _spread(length[chosen])
        order[np.repeat(start[chosen], length[chosen]) + within] = offset + counted * longest + within
        offset += len(chosen) * longest
    order[order < 0] = offset
    if np.array_equal(order, np.arange(offset)):
        return Calls(tuple(calls), slice(None), None), has_padding
    return Calls(tuple(calls), slice(None), torch.from_numpy(order)), has_padding


def split_layers(tiles: Tiles) -> list[Int64[np.ndarray, "tiles 6"]]:
    """Columns of the tiles, in as few layers as keep the queries of a layer disjoint."""
    order = np.argsort(tiles.columns[:, 0], kind="stable")
    columns = tiles.columns[order]
    _, first, count = np.unique(columns[:, 0], return_index=True, return_counts=True)
    layer = np.arange(len(columns)) - np.repeat(first, count)
    return [columns[layer == each] for each in range(layer.max(initial=-1) + 1)]


def _stack(columns: Int64[np.ndarray, "tiles 6"]) -> Calls:
    shapes, which = np.unique(columns[:, [1, 3, 5]], axis=0, return_inverse=True)
    calls, rows = [], []
    for shape, (queries, keys, window) in enumerate(shapes.tolist()):
        chosen = columns[which == shape]
        query, key = _rows(chosen[:, 0], queries), _rows(chosen[:, 2], keys)
        mask = TileMask(None, None if window == -ALWAYS else window)
        calls.append(StackedTiles(query, key, query, mask))
        rows.append((chosen[:, 0, None] + np.arange(queries)).reshape(-1))
    return Calls(tuple(calls), sliced(np.concatenate(rows)), None)


def sliced(rows: np.ndarray) -> Tensor | slice:
    """A slice, if the rows are one run in order."""
    run = len(rows) == rows[-1] - rows[0] + 1 and bool((np.diff(rows) == 1).all())
    return slice(int(rows[0]), int(rows[-1]) + 1) if run else torch.from_numpy(rows)


def _rows(start: Int64[np.ndarray, "tiles"], length: int, *, limit: int | None = None) -> Rows:
    """Runs of ``length`` rows; where they reach over ``limit``, its last row is read again."""
    starts, steps = tuple(start.tolist()), np.diff(start)
    step = int(steps[0]) if len(steps) else length
    if (steps == step).all() and (limit is None or start[-1] + length <= limit):
        return Rows(starts, length, step, None)
    index = (start[:, None] + np.arange(length)).reshape(-1)
    return Rows(starts, length, 0, torch.from_numpy(index if limit is None else np.minimum(index, limit - 1)))


def _round_up(length: np.ndarray) -> np.ndarray:
    """To four sizes in each octave, so that a stacked triangle is at most a quarter longer than its document."""
    grain = np.maximum(1 << np.maximum(np.frexp(length - 1)[1] - 3, 0), 4)
    return np.where(length > _STACKED_BEYOND_TOKENS, length, -(-length // grain) * grain)


def _spread(length: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For ranges of these lengths, laid end to end: place within the range, and number of the range."""
    counted = np.repeat(np.arange(len(length)), length)
    return np.arange(len(counted)) - np.repeat(np.cumsum(length) - length, length), counted
