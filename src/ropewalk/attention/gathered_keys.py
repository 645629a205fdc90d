"""A rank's own and received keys as one block in packed order, for kernels that want all keys at once.

In this block the keys of any query are contiguous and end with the query itself, whatever the layout of the
partition.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Int64

from ropewalk.partition.partition import Partition
from ropewalk.partition.token_ranges import TokenRanges


@dataclass(frozen=True)
class GatheredKeys:
    """The packed indices of a rank's gathered keys, and the range of them that each query sees."""

    partition: Partition
    rank: int

    @cached_property
    def needed(self) -> Int64[np.ndarray, "needed"]:
        """Packed indices of the tokens whose keys come from others, ascending."""
        return self.partition.needed_keys.of_rank(self.rank).expand()

    @cached_property
    def packed(self) -> Int64[np.ndarray, "gathered"]:
        """Packed indices of all tokens of the block, ascending."""
        # [local] and [needed] -> [gathered]
        return np.sort(np.concatenate([self.partition.owned(self.rank), self.needed]))

    @cached_property
    def order(self) -> Int64[np.ndarray, "gathered"]:
        """Where each token of the block stands among own tokens followed by needed ones."""
        # [local] and [needed] -> [gathered]
        return np.argsort(np.concatenate([self.partition.owned(self.rank), self.needed]), kind="stable")

    def find_visible_keys(self) -> tuple[TokenRanges, TokenRanges]:
        """For each segment of a document that the rank owns, its local tokens, and the range of the block with all
        keys that one of them sees."""
        segments = self.partition.segments
        mine = (segments.owner == self.rank) & (segments.document >= 0)
        ranges, first = segments.ranges.where(mine), segments.begin[mine]
        if self.partition.window is not None:
            first = np.maximum(first, ranges.start - self.partition.window + 1)
        keys = TokenRanges(np.searchsorted(self.packed, first), np.searchsorted(self.packed, ranges.stop))
        assert (keys.length == ranges.stop - first).all(), "all keys that a query sees are there"
        return TokenRanges.from_lengths(segments.local[mine], ranges.length), keys

    def find_bounds(self) -> tuple[Int64[np.ndarray, "local"], Int64[np.ndarray, "local"]]:
        """For each own token the first and the last key of the block that it sees; padding sees itself."""
        last = np.searchsorted(self.packed, self.partition.owned(self.rank))
        first = last.copy()
        queries, keys = self.find_visible_keys()
        tokens, seen = queries.expand(), np.repeat(keys.start, queries.length)
        if self.partition.window is not None:
            seen = np.maximum(seen, last[tokens] - self.partition.window + 1)
        first[tokens] = seen
        return first, last
