"""Documents that are made of pieces of stored ones: joined documents, each a list of token ranges of the store.

A piece is ``[number, begin, end, opens]``: tokens ``[begin, end)`` of the stored document ``number`` (over all shards;
the last shards hold the added tokens: headers and separators), and whether a part of the document opens with it.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Int64, UInt8, UInt16, UInt32

from ropewalk.core.record import Shard
from ropewalk.corpus.tokens.store import StoredDocuments, open_shards

Attend = Literal["document", "parts"]
"""Whether a joined document is one document to the attention mask, or each of its parts."""
_SMALL_BYTES = 1 << 20
PIECES, ADDED = "pieces.npy", "added"
"""A file and a folder of a joined source in a corpus folder: the table of pieces, and the shards of added tokens."""


@dataclass(frozen=True)
class JoinedDocuments(StoredDocuments):
    """Some joined documents. ``chosen`` holds the number of the stored document that each begins with."""

    pieces: Int64[np.ndarray, "pieces 4"]
    """number, begin, end, opens."""
    first: Int64[np.ndarray, "documents"]
    """The first piece of each document."""
    last: Int64[np.ndarray, "documents"]
    """The piece after the last one of each document."""
    attend: Attend

    @cached_property
    def _before(self) -> Int64[np.ndarray, "_"]:
        """Tokens before each piece of the table, and of all of it."""
        return np.concatenate([[0], np.cumsum(self.pieces[:, 2] - self.pieces[:, 1])]).astype(np.int64)

    @cached_property
    def _stored(self) -> StoredDocuments:
        """Every document of the shards, by its number."""
        return StoredDocuments(self.shards, np.arange(sum(len(shard.ends) for shard in self.shards), dtype=np.int64))

    @cached_property
    def lengths(self) -> Int64[np.ndarray, "documents"]:
        """Length of each document in tokens."""
        return np.asarray(self._before[self.last] - self._before[self.first])

    @cached_property
    def labels(self) -> Int64[np.ndarray, "documents"]:
        """Number of labels of each document: trained tokens that have a token before them. Reads every mask once."""
        masks = (self.read(document)[1] for document in range(len(self)))
        return np.array([int(mask.sum(dtype=np.int64)) - int(mask[0]) for mask in masks], dtype=np.int64)

    def take(self, documents: Int64[np.ndarray, "_"]) -> "JoinedDocuments":
        """Some of these documents."""
        chosen, first, last = self.chosen[documents], self.first[documents], self.last[documents]
        return JoinedDocuments(self.shards, chosen, self.pieces, first, last, self.attend)

    def read(
        self, document: int, start: int = 0, stop: int | None = None
    ) -> tuple[UInt16[np.ndarray, "tokens"] | UInt32[np.ndarray, "tokens"], UInt8[np.ndarray, "tokens"]]:
        """Tokens ``[start, stop)`` of one document and their mask."""
        stop = int(self.lengths[document]) if stop is None else stop
        assert 0 <= start <= stop <= int(self.lengths[document]), f"document {document} has no tokens {start}:{stop}"
        found = self._stored.read_pieces(self._cut(document, start, stop))
        if len(found) == 1:
            return found[0]
        if not found:
            return self._stored.read(int(self.chosen[document]), 0, 0)
        return np.concatenate([ids for ids, _ in found]), np.concatenate([mask for _, mask in found])

    @property
    def part_counts(self) -> Int64[np.ndarray, "documents"]:
        """The number of parts of each document."""
        opened = np.concatenate([[0], np.cumsum(self.pieces[:, 3] != 0)])
        return np.asarray(opened[self.last] - opened[self.first], dtype=np.int64)

    def part_starts(self, document: int) -> Int64[np.ndarray, "parts"]:
        """The offset in tokens at which each part of a document begins. The first is 0."""
        span = slice(int(self.first[document]), int(self.last[document]))
        opens = np.flatnonzero(self.pieces[span, 3]) + span.start
        return np.asarray(self._before[opens] - self._before[span.start])

    def origin(self, document: int, start: int, tokens: int) -> list[dict[str, int]]:
        """Where the tokens of a segment are from: numbers in the source's store; -1 for headers and separators."""
        added = sum(len(shard.ends) for shard in self.shards if ADDED in shard.manifest)
        stored = len(self._stored) - added
        return [
            {"document": number if number < stored else -1, "start": begin, "tokens": end - begin}
            for number, begin, end in self._cut(document, start, start + tokens).tolist()
        ]

    def _cut(self, document: int, start: int, stop: int) -> Int64[np.ndarray, "pieces 3"]:
        """The pieces of tokens ``[start, stop)`` of a document, cut to them: number, begin, end."""
        first, last = int(self.first[document]), int(self.last[document])
        before = self._before[first : last + 1]
        here = int(before[0])
        low = int(np.searchsorted(before, here + start, side="right")) - 1
        high = max(low, int(np.searchsorted(before, here + stop, side="left")))
        cut = np.array(self.pieces[first + low : first + high, :3])
        if len(cut):
            cut[0, 1] += max(0, here + start - int(before[low]))
            cut[-1, 2] -= max(0, int(before[high]) - here - stop)
        return cut


def open_joined(folder: Path, shards: tuple[Shard, ...], *, vocabulary: int, attend: Attend) -> JoinedDocuments:
    """The joined documents of a source's folder in a corpus. ``shards`` are those of its store."""
    is_small = (folder / PIECES).stat().st_size < _SMALL_BYTES  # an empty table cannot be mapped
    table: Any = np.load(folder / PIECES, mmap_mode=None if is_small else "r", allow_pickle=False)
    added = open_shards(folder / ADDED, vocabulary=vocabulary, manifest={ADDED: True})
    borders = np.flatnonzero(np.diff(table[:, 0], prepend=-1, append=-1))  # where the number of the document changes
    first, last = borders[:-1].astype(np.int64), borders[1:].astype(np.int64)
    pieces = np.asarray(table[:, 1:])
    whole = (*shards, *added)
    return JoinedDocuments(whole, _first_stored(pieces, first, last, shards), pieces, first, last, attend)


def _first_stored(
    pieces: Int64[np.ndarray, "pieces 4"],
    first: Int64[np.ndarray, "documents"],
    last: Int64[np.ndarray, "documents"],
    shards: tuple[Shard, ...],
) -> Int64[np.ndarray, "documents"]:
    """The first stored document of each joined one: its language and name are the joined document's."""
    stored = sum(len(shard.ends) for shard in shards)
    is_stored = np.flatnonzero(pieces[:, 0] < stored)
    at = np.searchsorted(is_stored, first)
    assert not len(first) or (is_stored[at] < last).all()
    return np.asarray(pieces[is_stored[at], 0])
