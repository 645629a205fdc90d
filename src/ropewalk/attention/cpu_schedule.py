"""A rank's schedule for the CPU kernel: tiles of one shape are stacked into one call.

Causal tiles may be stacked with longer ones: a tile that is too long reads the tokens after its end, but its own
queries never see them. So hundreds of small documents of all lengths become a handful of calls.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ropewalk.attention.cpu_kernel import attend_tiles, attend_tiles_backward
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
from ropewalk.attention.token_selection import TokenSelection, index_tokens, select_stacked
from ropewalk.core.ranges import count_within, expand_ranges
from ropewalk.partition.partition import Partition
from ropewalk.partition.tiles import ALWAYS, TileMask, Tiles
from ropewalk.partition.token_ranges import TokenRanges

_STACKED_BEYOND_TOKENS = 1024
"""Longer causal tiles keep their length: one call each costs nothing beside their work."""


@dataclass(frozen=True, slots=True)
class StackedTiles:
    """Tiles of one shape.

    ``logsum`` is like ``query``, but tokens beyond the end of a causal tile read the infinite log-sum-exp.
    """

    query: TokenSelection
    key: TokenSelection
    logsum: TokenSelection
    mask: TileMask

    def attend(self, query: QueryTokens, key: KeyTokens, value: KeyTokens, scores: Scores) -> CallResults:
        """See schedule.Call."""
        out, logsum = attend_tiles(
            self.query.take_stacked(query),
            self.key.take_stacked(key),
            self.key.take_stacked(value),
            mask=self.mask,
            scale=scores.scale,
        )
        return out.flatten(0, 1), logsum.flatten(0, 1)

    def differentiate(self, inputs: BackwardInputs, key: KeyTokens, value: KeyTokens, scores: Scores) -> CallGradients:
        """See schedule.Call."""
        d_query, d_key, d_value = attend_tiles_backward(
            self.query.take_stacked(inputs.grad),
            self.query.take_stacked(inputs.query),
            self.key.take_stacked(key),
            self.key.take_stacked(value),
            out=self.query.take_stacked(inputs.out),
            logsum=self.logsum.take_stacked(inputs.logsum),
            mask=self.mask,
            scale=scores.scale,
        )
        return d_query.flatten(0, 1), d_key.flatten(0, 1), d_value.flatten(0, 1)

    def add_to_keys(
        self,
        total: Float[Tensor, "keys both_heads head_dim"],
        d_key: Float[Tensor, "read kv_heads head_dim"],
        d_value: Float[Tensor, "read kv_heads head_dim"],
    ) -> None:
        """See schedule.Call."""
        # twice [read, kv_heads, head_dim] -> [read, both_heads, head_dim]
        self.key.add(total, torch.cat([d_key, d_value], dim=1))


def schedule_cpu(partition: Partition, rank: int) -> AttentionSchedule:
    """The rank's calls under a partition, tiles of one shape stacked."""
    causal_tiles, has_padding = _stack_causal_tiles(partition.causal_tiles(rank), partition.local_tokens)
    steps = tuple(tuple(_stack(layer) for layer in split_layers(tiles)) for tiles in partition.tiles(rank))
    return AttentionSchedule(rank, causal_tiles, steps, has_padding)


def _stack_causal_tiles(tiles: Tiles, local_tokens: int) -> tuple[Calls, bool]:
    """Causal tiles of similar length in one call; and whether any is stacked beyond its length.

    Their results cover all tokens of the rank; padding gets zeros.
    """
    start, length = tiles.columns[:, 0], tiles.columns[:, 1]
    size = _round_up(length)
    calls, order, offset, has_padding = [], np.full(local_tokens, -1), 0, False
    for shared in np.unique(size):
        chosen = np.flatnonzero(size == shared)
        own = TokenRanges.from_lengths(start[chosen], length[chosen])
        longest = int(own.length.max())
        query = select_stacked(own.start, longest, limit=local_tokens)
        logsum = query
        if (own.length < longest).any():
            inside = np.arange(longest) < own.length[:, None]
            index = np.where(inside, own.start[:, None] + np.arange(longest), local_tokens)
            logsum, has_padding = replace(query, index=torch.from_numpy(index.reshape(-1))), True
        calls.append(StackedTiles(query, query, logsum, TileMask(0, None)))
        first_results = offset + np.arange(len(own)) * longest
        order[own.expand()] = expand_ranges(first_results, own.length)
        offset += len(own) * longest
    order[order < 0] = offset
    if np.array_equal(order, np.arange(offset)):
        return Calls(tuple(calls), slice(None), None), has_padding
    return Calls(tuple(calls), slice(None), torch.from_numpy(order)), has_padding


def split_layers(tiles: Tiles) -> list[Int64[np.ndarray, "tiles 6"]]:
    """Columns of the tiles, in as few layers as keep the queries of a layer disjoint."""
    order = np.argsort(tiles.columns[:, 0], kind="stable")
    columns = tiles.columns[order]
    _, count = np.unique(columns[:, 0], return_counts=True)
    layer = count_within(count)
    return [columns[layer == each] for each in range(layer.max(initial=-1) + 1)]


def _stack(columns: Int64[np.ndarray, "tiles 6"]) -> Calls:
    shapes, which = np.unique(columns[:, [1, 3, 5]], axis=0, return_inverse=True)
    calls, tokens = [], []
    for shape, (queries, keys, window) in enumerate(shapes.tolist()):
        chosen = columns[which == shape]
        query, key = select_stacked(chosen[:, 0], queries), select_stacked(chosen[:, 2], keys)
        mask = TileMask(None, None if window == -ALWAYS else window)
        calls.append(StackedTiles(query, key, query, mask))
        tokens.append(expand_ranges(chosen[:, 0], chosen[:, 1]))
    # [queries] of each shape -> [computed]
    return Calls(tuple(calls), index_tokens(np.concatenate(tokens), torch.device("cpu")), None)


def _round_up(length: Int64[np.ndarray, "tiles"]) -> Int64[np.ndarray, "tiles"]:
    """To four sizes in each octave, so that a stacked tile is at most a quarter longer than its document."""
    grain = np.maximum(1 << np.maximum(np.frexp(length - 1)[1] - 3, 0), 4)
    return np.where(length > _STACKED_BEYOND_TOKENS, length, -(-length // grain) * grain)
