"""What a rank computes: tiles, each a query range, a key range and at most two diagonals.

Positions are local: queries in the rank's own rows, keys in the block of rows that a step reads. Step 0 reads the
rank's own rows, a later step a block that came from others. The fact that makes this short: blocks keep packed order,
so whatever is missing from a block, the keys that a query may see stand in it side by side. So all of a document that
a rank owns is one triangle, and each piece of it needs at most one rectangle of a received block. Only a window cuts
finer: into bands of queries, with a masked tile where it ends.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from ropewalk.partition.segments import Ranges

BAND_TOKENS = 128
"""Longest query range of a tile that a window cuts, so that its mask stays small."""
ALWAYS = 1 << 40
"""A diagonal so far off that it excludes nothing."""


class Tile(NamedTuple):
    """Queries ``query : query + query_tokens`` against keys ``key : key + key_tokens``.

    Query i of the tile sees key j if ``j <= i + causal`` and ``j >= i + window``; None sets no bound.
    """

    query: int
    query_tokens: int
    key: int
    key_tokens: int
    causal: int | None = None
    window: int | None = None


@dataclass(frozen=True, slots=True)
class Tiles:
    """Many tiles as columns, in the order of ``Tile``'s fields; ``ALWAYS`` and ``-ALWAYS`` stand for None."""

    columns: Int64[np.ndarray, "tiles 6"]

    def __len__(self) -> int:
        return len(self.columns)

    def __iter__(self) -> Iterator[Tile]:
        for query, query_tokens, key, key_tokens, causal, window in self.columns.tolist():
            diagonals = None if causal == ALWAYS else causal, None if window == -ALWAYS else window
            yield Tile(query, query_tokens, key, key_tokens, *diagonals)


@dataclass(frozen=True, slots=True)
class Queries:
    """Runs of a rank's rows in one document each: ``tokens[i]`` of them from ``local[i]`` on.

    ``begin`` is where the document is packed, ``packed`` from where to where the run's tokens are; between them there
    may be others' tokens.
    """

    packed: Ranges
    local: Int64[np.ndarray, "ranges"]
    tokens: Int64[np.ndarray, "ranges"]
    begin: Int64[np.ndarray, "ranges"]


def cut_bands(pieces: Queries, window: int | None) -> Queries:
    """Cut pieces that a window cuts into bands no longer than the window and ``BAND_TOKENS``."""
    if window is None:
        return pieces
    start, stop = pieces.packed.start, pieces.packed.stop
    size = np.where(stop - pieces.begin > window, min(BAND_TOKENS, window), pieces.tokens)
    count = -(-pieces.tokens // size)
    piece = np.repeat(np.arange(len(start)), count)
    offset = (np.arange(len(piece)) - np.repeat(np.cumsum(count) - count, count)) * size[piece]
    tokens = np.minimum(size[piece], pieces.tokens[piece] - offset)
    first = start[piece] + offset
    packed = Ranges(first, np.where(count[piece] == 1, stop[piece], first + tokens))
    return Queries(packed, pieces.local[piece] + offset, tokens, pieces.begin[piece])


def join_documents(pieces: Queries, window: int | None) -> Queries:
    """Pieces of one document as one run, unless a window cuts them: among a rank's own rows they are side by side."""
    if not len(pieces.local):
        return pieces
    first = np.append(True, pieces.begin[1:] != pieces.begin[:-1])
    last_stop = pieces.packed.stop[np.append(np.flatnonzero(first)[1:], len(first)) - 1][np.cumsum(first) - 1]
    if window is not None:
        first |= last_stop - pieces.begin > window
    kept = np.flatnonzero(first)
    stop = pieces.packed.stop[np.append(kept[1:], len(first)) - 1]
    tokens = np.add.reduceat(pieces.tokens, kept)
    return Queries(Ranges(pieces.packed.start[kept], stop), pieces.local[kept], tokens, pieces.begin[kept])


def make_triangles(queries: Queries) -> Tiles:
    """Every run against itself."""
    zero = np.zeros_like(queries.local)
    return _tiles(queries.local, queries.tokens, queries.local, queries.tokens, zero, zero - ALWAYS)


def make_rectangles(queries: Queries, block: Ranges, window: int | None) -> Tiles:
    """Every run against the earlier keys of its document that all of its queries see."""
    key, key_stop = _place(_first_seen_by_all(queries, window), block), _place(queries.packed.start, block)
    some = key < key_stop
    always = np.full(int(some.sum()), ALWAYS)
    return _tiles(queries.local[some], queries.tokens[some], key[some], (key_stop - key)[some], always, -always)


def make_bands(queries: Queries, block: Ranges, window: int | None) -> Tiles:
    """Every run against the keys that only its first queries see, because the window ends in them.

    One tile for each run of ``block``: a diagonal is one only where keys are packed side by side. Queries that see
    none of the tile's keys are left out of it.
    """
    if window is None or not len(block.start):
        return _tiles(*np.empty((6, 0), dtype=np.int64))
    start, stop = queries.packed.start, _first_seen_by_all(queries, window)
    first = np.maximum(queries.begin, start - window + 1)
    run = np.searchsorted(block.stop, first, side="right")
    count = np.where(first < stop, np.searchsorted(block.start, stop, side="left") - run, 0)
    piece = np.repeat(np.arange(len(first)), np.maximum(count, 0))
    run = run[piece] + np.arange(len(piece)) - np.repeat(np.cumsum(count) - count, count)
    key, key_stop = np.maximum(first[piece], block.start[run]), np.minimum(stop[piece], block.stop[run])
    seeing = np.minimum(queries.tokens[piece], key_stop - start[piece] + window - 1)
    diagonal = start[piece] - window + 1 - key
    return _tiles(queries.local[piece], seeing, _place(key, block), key_stop - key, np.full(len(key), ALWAYS), diagonal)


def _first_seen_by_all(queries: Queries, window: int | None) -> np.ndarray:
    if window is None:
        return queries.begin
    first: np.ndarray = np.minimum(np.maximum(queries.begin, queries.packed.stop - window), queries.packed.start)
    return first


def _place(packed: np.ndarray, block: Ranges) -> np.ndarray:
    """How many rows of the block stand before each packed index."""
    before = np.append(0, np.cumsum(block.length))
    run = np.searchsorted(block.start, packed, side="right") - 1
    inside = np.minimum(packed - block.start[run], block.length[run]) if len(block.start) else packed
    return np.where(run < 0, 0, before[run] + inside)


def _tiles(*columns: np.ndarray) -> Tiles:
    return Tiles(np.stack(columns, axis=1).astype(np.int64))
