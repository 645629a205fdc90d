"""Packed sequences as documents, and documents as segments that one rank owns.

All of them are arrays of sorted half-open ranges of *packed* indices (sequence by sequence, token by token), so a
partition of 128Ki tokens is a few hundred numbers. Padding is a document with the id -1: it is owned but never
computed.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int32, Int64


@dataclass(frozen=True, slots=True)
class Ranges:
    """Half-open ranges ``start[i]:stop[i]`` of packed indices, sorted and disjoint."""

    start: Int64[np.ndarray, "ranges"]
    stop: Int64[np.ndarray, "ranges"]

    @property
    def length(self) -> Int64[np.ndarray, "ranges"]:
        """Tokens in each range."""
        length: np.ndarray = self.stop - self.start
        return length

    def where(self, chosen: Bool[np.ndarray, "ranges"]) -> "Ranges":
        """The chosen ones of these ranges."""
        return Ranges(self.start[chosen], self.stop[chosen])

    def expand(self) -> Int64[np.ndarray, "indices"]:
        """All indices of the ranges, one range after the other."""
        ends = np.cumsum(self.length)
        indices: np.ndarray = np.arange(ends[-1] if len(ends) else 0)
        indices += np.repeat(self.start - (ends - self.length), self.length)
        return indices


@dataclass(frozen=True, slots=True)
class PackedDocuments:
    """The documents of packed rows in order, covering all tokens. ``real`` is False for padding."""

    ranges: Ranges
    real: Bool[np.ndarray, "documents"]

    @property
    def tokens(self) -> int:
        return int(self.ranges.stop[-1])


@dataclass(frozen=True, slots=True)
class Ownership:
    """Ranges that cover all tokens: the i-th runs from ``start[i]`` to the next start and belongs to ``owner[i]``."""

    start: Int64[np.ndarray, "ranges"]
    owner: Int64[np.ndarray, "ranges"]


@dataclass(frozen=True, slots=True)
class Segments:
    """Maximal ranges that lie in one document and belong to one rank, in packed order, covering all tokens.

    ``document`` counts documents, -1 for padding; ``begin`` is where the piece's document starts; ``local`` is where
    the piece stands among its owner's tokens, which keep their packed order.
    """

    start: Int64[np.ndarray, "pieces"]
    stop: Int64[np.ndarray, "pieces"]
    owner: Int64[np.ndarray, "pieces"]
    document: Int64[np.ndarray, "pieces"]
    begin: Int64[np.ndarray, "pieces"]
    local: Int64[np.ndarray, "pieces"]


def find_documents(document: Int32[np.ndarray, "rows context"]) -> PackedDocuments:
    """Runs of equal ids; a document never crosses the end of a row."""
    _, context = document.shape
    flat = document.reshape(-1)
    change = flat[1:] != flat[:-1]
    change[context - 1 :: context] = True
    start = np.append(0, np.flatnonzero(change) + 1)
    return PackedDocuments(Ranges(start, np.append(start[1:], flat.size)), flat[start] >= 0)


def make_segments(documents: PackedDocuments, ownership: Ownership, ranks: int) -> Segments:
    """Cut documents where their owner changes. Every rank must own the same number of tokens."""
    start = np.union1d(documents.ranges.start, ownership.start)
    owner = ownership.owner[np.searchsorted(ownership.start, start, side="right") - 1]
    index = np.searchsorted(documents.ranges.start, start, side="right") - 1
    kept = np.append(True, (owner[1:] != owner[:-1]) | (index[1:] != index[:-1]))
    start, owner, index = start[kept], owner[kept], index[kept]
    stop = np.append(start[1:], documents.tokens)
    owned = np.bincount(owner, weights=stop - start, minlength=ranks)
    assert (owned * ranks == documents.tokens).all(), "every rank owns the same number of tokens"
    by_rank = np.argsort(owner, kind="stable")
    length = (stop - start)[by_rank]
    local = np.empty_like(start)
    local[by_rank] = np.cumsum(length) - length
    local -= owner * (documents.tokens // ranks)
    return Segments(
        start, stop, owner, np.where(documents.real[index], index, -1), documents.ranges.start[index], local
    )
