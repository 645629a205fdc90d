"""Ranges of tokens: the form in which a partition says which tokens it means.

A rank's tokens, the keys that it needs and the queries of a tile are few long ranges, so a partition of 128Ki tokens
is a few hundred numbers. Indices are *packed* (sequence by sequence, token by token) or *local* (the place among a
rank's own tokens); whoever holds the ranges says which.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int64

from ropewalk.core.ranges import expand_ranges


@dataclass(frozen=True, slots=True)
class TokenRanges:
    """Half-open ranges ``start[i]:stop[i]`` of token indices."""

    start: Int64[np.ndarray, "ranges"]
    stop: Int64[np.ndarray, "ranges"]

    @classmethod
    def from_lengths(cls, start: Int64[np.ndarray, "ranges"], length: Int64[np.ndarray, "ranges"]) -> "TokenRanges":
        """The ranges that begin at ``start`` and hold ``length`` tokens each."""
        return cls(start, start + length)

    def __len__(self) -> int:
        """How many ranges they are, not how many tokens."""
        return len(self.start)

    @property
    def length(self) -> Int64[np.ndarray, "ranges"]:
        """Tokens in each range."""
        length: np.ndarray = self.stop - self.start
        return length

    def where(self, chosen: Bool[np.ndarray, "ranges"]) -> "TokenRanges":
        """The chosen ones of these ranges."""
        return TokenRanges(self.start[chosen], self.stop[chosen])

    def expand(self) -> Int64[np.ndarray, "tokens"]:
        """The indices of all tokens, range after range."""
        return expand_ranges(self.start, self.length)
