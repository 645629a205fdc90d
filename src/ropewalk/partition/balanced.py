"""The balanced layout: each rank takes the ends of long documents and fills up with short ones, until tokens and work
are equal.

A late query of a long document costs many pairs, an early or short one few. So a rank's share is cut from both ends
of the list of documents: tails of the longest, and the shortest whole. Their ratio is chosen so that the rank's work
is the mean. The rest then has the same mean, so the next rank repeats it. Every rank ends up with about one long
slice, and short documents stay whole: far fewer keys travel than with zigzag, at the same balance.

For recurrent layers each cut costs a summary, and their kernels take chunks of 64 tokens. So there pieces are longer,
cuts are as few as the work allows, and stand at whole chunks of their document where they can. Both ends of a share
cannot always: a rank's tokens are a given number, and documents have any length.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64

from ropewalk.partition.segments import Ownership, PackedDocuments


class CutRule(NamedTuple):
    """No segment has fewer than ``least_tokens``, unless its document has, or a rank would miss its work by more than
    1 %. With a ``grain_tokens`` above 1, few cuts are preferred, and those at its multiples in a document."""

    least_tokens: int
    grain_tokens: int


FOR_ATTENTION = CutRule(64, 1)
FOR_RECURRENCES = CutRule(256, 64)
"""To move a token's activations costs a 256th of a summary, so shorter pieces do not pay."""
_GRID = 128
_NEIGHBOURS = 4  # times the least tokens
_SLACK = 0.01


@dataclass(frozen=True)
class _Rest:
    """What no rank has taken yet, one entry per document, the one whose middle token is cheapest first.

    ``start`` is the packed index of an entry's first token, ``first`` that token's place in its document. Padding is
    not ``real``: it costs nothing.
    """

    start: Int64[np.ndarray, "rest"]
    first: Int64[np.ndarray, "rest"]
    tokens: Int64[np.ndarray, "rest"]
    real: Bool[np.ndarray, "rest"]

    def __len__(self) -> int:
        return len(self.start)

    @cached_property
    def tokens_before(self) -> Int64[np.ndarray, "edges"]:
        return np.append(0, np.cumsum(self.tokens))

    @cached_property
    def pairs_before(self) -> Int64[np.ndarray, "edges"]:
        return np.append(0, np.cumsum(self._head_pairs(slice(None), self.tokens)))

    def count_head(self, tokens: Int64[np.ndarray, "choices"]) -> Int64[np.ndarray, "choices"]:
        """Pairs of the first ``tokens`` tokens of the list."""
        entry = np.minimum(np.searchsorted(self.tokens_before, tokens, side="right") - 1, len(self) - 1)
        pairs: np.ndarray = self.pairs_before[entry] + self._head_pairs(entry, tokens - self.tokens_before[entry])
        return pairs

    def _head_pairs(
        self, entry: slice | Int64[np.ndarray, "choices"], tokens: Int64[np.ndarray, "choices"]
    ) -> Int64[np.ndarray, "choices"]:
        pairs: np.ndarray = self.real[entry] * (tokens * self.first[entry] + tokens * (tokens + 1) // 2)
        return pairs


def own_balanced(documents: PackedDocuments, ranks: int, rule: CutRule = FOR_ATTENTION) -> Ownership:
    """Equal tokens and nearly equal pairs for each rank, in few and long segments."""
    ranges = documents.ranges
    order = np.argsort(np.where(documents.real, ranges.length, 0), kind="stable")
    rest = _Rest(ranges.start[order], np.zeros_like(order), ranges.length[order], documents.real[order])
    share = documents.tokens // ranks
    starts, owners = [], []
    for rank in range(ranks - 1):
        dear = _choose(rest, share, rest.pairs_before[-1] / (ranks - rank), rule)
        taken, rest = _take(rest, share - dear, dear)
        starts.append(taken)
        owners.append(np.full(len(taken), rank))
    starts.append(rest.start)
    owners.append(np.full(len(rest), ranks - 1))
    start = np.concatenate(starts)
    order = np.argsort(start, kind="stable")
    return Ownership(start[order], np.concatenate(owners)[order])


def _choose(rest: _Rest, share: int, wanted: float, rule: CutRule) -> int:
    """How many of ``share`` tokens to take from the dear end of the list, the others from the cheap end.

    The number that comes nearest to ``wanted`` pairs; then, close by, the best one by the rule.
    """
    total, pairs = rest.tokens_before[-1], rest.pairs_before[-1]

    def miss(dear: Int64[np.ndarray, "choices"]) -> Float64[np.ndarray, "choices"]:
        missed: np.ndarray = np.abs(rest.count_head(share - dear) + pairs - rest.count_head(total - dear) - wanted)
        return missed

    low, high = 0, share
    while True:
        grid = np.unique(np.linspace(low, high, _GRID + 1).astype(np.int64))
        best = int(miss(grid).argmin())
        if high - low <= _GRID:
            break
        low, high = int(grid[max(best - 1, 0)]), int(grid[min(best + 1, len(grid) - 1)])
    reach = _NEIGHBOURS * rule.least_tokens
    near = np.arange(max(0, grid[best] - reach), min(share, grid[best] + reach) + 1)
    faults = _count_faults(rest, share - near, rule) + _count_faults(rest, total - near, rule)
    missed = miss(near)
    allowed = (missed <= _SLACK * wanted) & (faults < _CRUMB)
    if not allowed.any():
        return int(near[missed.argmin()])
    neat = allowed & (faults == faults[allowed].min())
    return int(near[np.where(neat, missed, np.inf).argmin()])


_CRUMB, _CUT, _UNEVEN = 100, 2, 1
"""Faults of an edge: a short segment, which counts more than all others; a cut; one that is not at the grain."""


def _count_faults(rest: _Rest, edge: Int64[np.ndarray, "choices"], rule: CutRule) -> Int64[np.ndarray, "choices"]:
    """How bad a cut after ``edge`` tokens of the list is, by the rule; 0 between two documents and in padding."""
    entry = np.minimum(np.searchsorted(rest.tokens_before, edge, side="right") - 1, len(rest) - 1)
    before = edge - rest.tokens_before[entry]
    after = rest.tokens[entry] - before
    cut = (before > 0) & (after > 0) & rest.real[entry]
    faults = _CRUMB * (np.minimum(before, after) < rule.least_tokens)
    if rule.grain_tokens > 1:
        faults = faults + _CUT + _UNEVEN * ((rest.first[entry] + before) % rule.grain_tokens > 0)
    counted: np.ndarray = np.where(cut, faults, 0)
    return counted


def _take(rest: _Rest, cheap: int, dear: int) -> tuple[Int64[np.ndarray, "taken"], _Rest]:
    """Starts of the first ``cheap`` and the last ``dear`` tokens of the list, entry by entry, and what is left."""
    low, high = cheap, int(rest.tokens_before[-1]) - dear
    from_low = np.clip(low - rest.tokens_before[:-1], 0, rest.tokens)
    to_high = np.clip(high - rest.tokens_before[:-1], 0, rest.tokens)
    taken = np.concatenate([rest.start[from_low > 0], (rest.start + to_high)[to_high < rest.tokens]])
    kept = from_low < to_high
    left = [rest.start + from_low, rest.first + from_low, to_high - from_low, rest.real]
    left = [column[kept] for column in left]
    order = np.argsort(np.where(left[3], 2 * left[1] + left[2], 0), kind="stable")
    return taken, _Rest(*(column[order] for column in left))
