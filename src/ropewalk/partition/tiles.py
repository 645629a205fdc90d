"""The work of a rank as tiles: each a query range, a key range and a mask.

Positions are local: queries among the rank's own tokens, keys in the block of keys that a step reads. Step 0 reads
the rank's own keys, a later step a received block. Blocks keep packed order, so the keys that a query may see are
contiguous in a block, whichever others are missing from it. So all tokens of a document that a rank owns are one
causal tile, and each segment of it needs at most one full tile of a received block. Only a window cuts finer: into
short query ranges, with a masked tile at the window's edge.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from ropewalk.core.ranges import count_within, expand_ranges
from ropewalk.partition.token_ranges import TokenRanges

WINDOW_QUERY_TOKENS = 128
"""Longest query range of a tile that a window cuts, so that its mask stays small."""
ALWAYS = 1 << 40
"""A diagonal so far off that it excludes nothing."""


class TileMask(NamedTuple):
    """Which keys a query of a tile sees: query i sees key j if ``j <= i + causal`` and ``j >= i + window``.

    Both count from the tile's first query and first key; None sets no bound.
    """

    causal: int | None
    window: int | None

    @classmethod
    def from_columns(cls, causal: int, window: int) -> "TileMask":
        """The mask that the last two columns of ``Tiles`` give."""
        return cls(None if causal == ALWAYS else causal, None if window == -ALWAYS else window)


class Tile(NamedTuple):
    """Queries ``query : query + query_tokens`` against keys ``key : key + key_tokens``, under ``mask``."""

    query: int
    query_tokens: int
    key: int
    key_tokens: int
    mask: TileMask


@dataclass(frozen=True, slots=True)
class Tiles:
    """Many tiles as columns, in the order of ``Tile``'s fields; ``ALWAYS`` and ``-ALWAYS`` stand for None."""

    columns: Int64[np.ndarray, "tiles 6"]

    def __len__(self) -> int:
        return len(self.columns)

    def __iter__(self) -> Iterator[Tile]:
        for query, query_tokens, key, key_tokens, causal, window in self.columns.tolist():
            yield Tile(query, query_tokens, key, key_tokens, TileMask.from_columns(causal, window))


@dataclass(frozen=True, slots=True)
class Queries:
    """Ranges of a rank's tokens in one document each: ``tokens[i]`` of them from ``local[i]`` on.

    ``begin`` is where the document is packed, ``packed`` from where to where the range's tokens are; between them there
    may be others' tokens.
    """

    packed: TokenRanges
    local: Int64[np.ndarray, "ranges"]
    tokens: Int64[np.ndarray, "ranges"]
    begin: Int64[np.ndarray, "ranges"]


def cut_at_window(segments: Queries, window: int | None) -> Queries:
    """Cut segments that a window cuts into ranges no longer than the window and ``WINDOW_QUERY_TOKENS``."""
    if window is None:
        return segments
    start, stop = segments.packed.start, segments.packed.stop
    size = np.where(stop - segments.begin > window, min(WINDOW_QUERY_TOKENS, window), segments.tokens)
    count = -(-segments.tokens // size)
    segment = np.repeat(np.arange(len(start)), count)
    offset = count_within(count) * size[segment]
    tokens = np.minimum(size[segment], segments.tokens[segment] - offset)
    first = start[segment] + offset
    packed = TokenRanges(first, np.where(count[segment] == 1, stop[segment], first + tokens))
    return Queries(packed, segments.local[segment] + offset, tokens, segments.begin[segment])


def join_documents(segments: Queries, window: int | None) -> Queries:
    """Segments of one document as one range, unless a window cuts them: in a rank's local order they adjoin."""
    if not len(segments.local):
        return segments
    first = np.append(True, segments.begin[1:] != segments.begin[:-1])
    last_stop = segments.packed.stop[np.append(np.flatnonzero(first)[1:], len(first)) - 1][np.cumsum(first) - 1]
    if window is not None:
        first |= last_stop - segments.begin > window
    kept = np.flatnonzero(first)
    stop = segments.packed.stop[np.append(kept[1:], len(first)) - 1]
    tokens = np.add.reduceat(segments.tokens, kept)
    return Queries(TokenRanges(segments.packed.start[kept], stop), segments.local[kept], tokens, segments.begin[kept])


def make_causal_tiles(queries: Queries) -> Tiles:
    """Every range against itself."""
    zero = np.zeros_like(queries.local)
    return _tiles(queries.local, queries.tokens, queries.local, queries.tokens, zero, zero - ALWAYS)


def make_full_tiles(queries: Queries, block: TokenRanges, window: int | None) -> Tiles:
    """Every range against the earlier keys of its document that all of its queries see."""
    key, key_stop = _place(_first_seen_by_all(queries, window), block), _place(queries.packed.start, block)
    some = key < key_stop
    always = np.full(int(some.sum()), ALWAYS)
    return _tiles(queries.local[some], queries.tokens[some], key[some], (key_stop - key)[some], always, -always)


def make_window_tiles(queries: Queries, block: TokenRanges, window: int | None) -> Tiles:
    """Every range against the keys that only its first queries see, because the window ends in them.

    One tile for each range of ``block``: a diagonal is one only where keys are packed side by side. Queries that see
    none of the tile's keys are left out of it.
    """
    if window is None or not len(block.start):
        return _tiles(*np.empty((6, 0), dtype=np.int64))
    start, stop = queries.packed.start, _first_seen_by_all(queries, window)
    first = np.maximum(queries.begin, start - window + 1)
    run = np.searchsorted(block.stop, first, side="right")
    count = np.where(first < stop, np.searchsorted(block.start, stop, side="left") - run, 0)
    segment = np.repeat(np.arange(len(first)), count)
    run = expand_ranges(run, count)
    key, key_stop = np.maximum(first[segment], block.start[run]), np.minimum(stop[segment], block.stop[run])
    seeing = np.minimum(queries.tokens[segment], key_stop - start[segment] + window - 1)
    diagonal = start[segment] - window + 1 - key
    return _tiles(
        queries.local[segment], seeing, _place(key, block), key_stop - key, np.full(len(key), ALWAYS), diagonal
    )


def _first_seen_by_all(queries: Queries, window: int | None) -> Int64[np.ndarray, "queries"]:
    if window is None:
        return queries.begin
    first: np.ndarray = np.minimum(np.maximum(queries.begin, queries.packed.stop - window), queries.packed.start)
    return first


def _place(packed: Int64[np.ndarray, "indices"], block: TokenRanges) -> Int64[np.ndarray, "indices"]:
    """How many tokens of the block stand before each packed index."""
    before = np.append(0, np.cumsum(block.length))
    run = np.searchsorted(block.start, packed, side="right") - 1
    inside = np.minimum(packed - block.start[run], block.length[run]) if len(block.start) else packed
    return np.where(run < 0, 0, before[run] + inside)


def _tiles(*columns: Int64[np.ndarray, "tiles"]) -> Tiles:
    return Tiles(np.stack(columns, axis=1).astype(np.int64))
