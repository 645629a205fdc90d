"""A rank's own and received keys as one block in packed order, for kernels that want all keys at once.

In this block the keys of any query are contiguous and end with the query itself, whatever the layout of the
partition.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Int64

from ropewalk.partition.partition import Partition
from ropewalk.partition.segments import Ranges


@dataclass(frozen=True)
class GatheredKeys:
    """The packed indices of a rank's gathered keys, and the range of them that each query sees."""

    partition: Partition
    rank: int

    @cached_property
    def needed(self) -> Int64[np.ndarray, "needed_kv"]:
        """Packed indices of the rows that come from others, ascending."""
        needed = self.partition.needed_keys
        mine = needed.rank == self.rank
        return Ranges(needed.start[mine], needed.stop[mine]).expand()

    @cached_property
    def packed(self) -> Int64[np.ndarray, "rows"]:
        """Packed indices of all rows of the block, ascending."""
        return np.sort(np.concatenate([self.partition.owned(self.rank), self.needed]))

    @cached_property
    def order(self) -> Int64[np.ndarray, "rows"]:
        """Where each row of the block stands among own rows followed by needed ones."""
        return np.argsort(np.concatenate([self.partition.owned(self.rank), self.needed]), kind="stable")

    def find_visible_keys(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """For each piece of a document that the rank owns: its first own row and its tokens, and the first row and
        the number of rows of the block that its queries see, all of them together."""
        segments = self.partition.segments
        mine = (segments.owner == self.rank) & (segments.document >= 0)
        start, stop, first = segments.start[mine], segments.stop[mine], segments.begin[mine]
        if self.partition.window is not None:
            first = np.maximum(first, start - self.partition.window + 1)
        key, key_stop = np.searchsorted(self.packed, first), np.searchsorted(self.packed, stop)
        assert (key_stop - key == stop - first).all(), "all keys that a query sees are there"
        return segments.local[mine], stop - start, key, key_stop - key

    def find_bounds(self) -> tuple[Int64[np.ndarray, "local"], Int64[np.ndarray, "local"]]:
        """For each own row the first and the last row of the block that it sees; padding sees itself."""
        last = np.searchsorted(self.packed, self.partition.owned(self.rank))
        first = last.copy()
        for start, tokens, key, keys in zip(*(column.tolist() for column in self.find_visible_keys()), strict=True):
            seen = np.full(tokens, key)
            if self.partition.window is not None:
                seen = np.maximum(seen, key + keys - tokens + np.arange(tokens) - self.partition.window + 1)
            first[start : start + tokens] = seen
        return first, last
