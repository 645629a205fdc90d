"""Packed sequences as documents, and documents as segments that one rank owns.

All of them are sorted and disjoint ranges of packed indices. Padding is a document with the id -1: it is owned but
never computed.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int32, Int64

from ropewalk.partition.token_ranges import TokenRanges


@dataclass(frozen=True, slots=True)
class PackedDocuments:
    """The documents of packed sequences in order, covering all tokens. ``real`` is False for padding."""

    ranges: TokenRanges
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

    ``document`` counts documents, -1 for padding; ``begin`` is where the segment's document starts; ``local`` is where
    the segment stands among its owner's tokens, which keep their packed order.
    """

    ranges: TokenRanges
    owner: Int64[np.ndarray, "segments"]
    document: Int64[np.ndarray, "segments"]
    begin: Int64[np.ndarray, "segments"]
    local: Int64[np.ndarray, "segments"]


def find_documents(document: Int32[np.ndarray, "sequences context"]) -> PackedDocuments:
    """Ranges of equal ids; a document never crosses the end of a sequence."""
    _, context = document.shape
    flat = document.reshape(-1)
    change = flat[1:] != flat[:-1]
    change[context - 1 :: context] = True
    start = np.append(0, np.flatnonzero(change) + 1)
    return PackedDocuments(TokenRanges(start, np.append(start[1:], flat.size)), flat[start] >= 0)


def make_segments(documents: PackedDocuments, ownership: Ownership, ranks: int) -> Segments:
    """Cut documents where their owner changes. Every rank must own the same number of tokens."""
    start = np.concatenate([documents.ranges.start, ownership.start])
    start.sort()  # a start that both have stands there twice, and is dropped below
    owner = ownership.owner[np.searchsorted(ownership.start, start, side="right") - 1]
    index = np.searchsorted(documents.ranges.start, start, side="right") - 1
    kept = np.ones(len(start), dtype=bool)
    np.logical_or(owner[1:] != owner[:-1], index[1:] != index[:-1], out=kept[1:])
    start, owner, index = start[kept], owner[kept], index[kept]
    stop = np.empty_like(start)
    stop[:-1], stop[-1] = start[1:], documents.tokens
    length = stop - start
    owned = np.bincount(owner, weights=length, minlength=ranks)
    assert (owned * ranks == documents.tokens).all(), "every rank owns the same number of tokens"
    by_rank = np.argsort(owner, kind="stable")
    length = length[by_rank]
    local = np.empty_like(start)
    local[by_rank] = np.cumsum(length) - length
    local -= owner * (documents.tokens // ranks)
    document = np.where(documents.real[index], index, -1)
    return Segments(TokenRanges(start, stop), owner, document, documents.ranges.start[index], local)
