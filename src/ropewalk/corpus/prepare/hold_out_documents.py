"""Chooses the documents that are held out: those of each source whose group of copies has the least keys.

A key is a hash of the text of the group's first document. So the choice does not depend on the order of the documents,
and no copy of a held-out document is trained on.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
from jaxtyping import UInt64

from ropewalk.core.seed import seed_for
from ropewalk.corpus.dedup.copies_on_disk import Copies
from ropewalk.corpus.dedup.external_sort import Column, chunks
from ropewalk.corpus.join.hold_out import hold_together, number_groups
from ropewalk.corpus.join.places import Places
from ropewalk.corpus.prepare.tokenized import Tokenized

TRAIN, HELD_OUT = 0, 1
_FEWEST, _MOST_OF_FEW = 8, 0.1
_BIN_BITS = 16


def hold_out(
    copies: Copies,
    sources: Sequence[Tokenized],
    leak: Column,
    splits: Column,
    *,
    share: float,
    places: Sequence[Places | None] = (),
) -> None:
    """Set HELD_OUT in ``splits`` for documents that are TRAIN so far. ``leak`` groups the copies of all sources.

    ``places`` holds for each source how its documents are joined, if they are: then joined documents are counted, and
    no more of them are held out than the share allows, even where copies unite many. Only with joins does memory grow
    with the number of documents, by about 60 bytes for each.
    """
    keys = _draw_keys(copies, sources, leak)
    counted = Column(copies.scratch / "counted", copies.documents, np.bool_)
    for first, last in counted.chunks():
        counted.write(first, splits.read(first, last) == TRAIN)
    if any(place is not None for place in places):
        leak, keys = _unite(copies, sources, leak, keys, counted, places)
    chosen = Column(copies.scratch / "chosen", copies.documents, np.bool_, filled=True)
    for first, last in pairwise(copies.borders):
        least = _find_least(keys, counted, (first, last), share)
        for start, end in chunks(first, last):
            own = (splits.read(start, end) == TRAIN) & (keys.read(start, end) < np.uint64(least))
            chosen.open()[leak.read(start, end)[own]] = True
    for first, last in splits.chunks():
        split = splits.read(first, last)
        split[(split == TRAIN) & chosen.open()[leak.read(first, last)]] = HELD_OUT
        splits.write(first, split)


def _draw_keys(copies: Copies, sources: Sequence[Tokenized], leak: Column) -> Column:
    """The key of each document: a hash of the digest of its group's first document."""
    drawn, keys = (Column(copies.scratch / name, copies.documents, np.uint64) for name in ("drawn", "keys"))
    for first, source in zip(copies.borders, sources, strict=False):
        for start, end in chunks(0, len(source.digests)):
            hashes = [seed_for("held out", digest) for digest in source.digests[start:end].tolist()]
            drawn.write(first + start, np.array(hashes, dtype=np.uint64))
    for first, last in keys.chunks():
        keys.write(first, drawn.open()[leak.read(first, last)])
    return keys


def _unite(
    copies: Copies,
    sources: Sequence[Tokenized],
    leak: Column,
    keys: Column,
    counted: Column,
    places: Sequence[Places | None],
) -> tuple[Column, Column]:
    """``leak`` and ``keys`` with joined documents as one group. Of a joined document only one stays ``counted``."""
    digests = np.concatenate([source.digests for source in sources])
    groups = number_groups(places, np.array(copies.borders), counted.open())
    united = Column(copies.scratch / "united", copies.documents)
    drawn = Column(copies.scratch / "united-keys", copies.documents, np.uint64)
    placed = np.concatenate([np.full(len(s.digests), p is not None) for s, p in zip(sources, places, strict=True)])
    held = hold_together(leak.open(), keys.open(), digests, groups, placed)
    for column, values in zip((united, drawn), held, strict=True):
        column.write(0, values)
    counted.write(0, counted.open() & (groups == np.arange(len(groups))))
    return united, drawn


def count_held_out(total: int, share: float) -> int:
    """How many of a source's ``total`` documents are held out, where no copies tie them: ``share``, at least 8 or a
    tenth. One is left to train on."""
    count = max(round(share * total), min(_FEWEST, int(_MOST_OF_FEW * total))) if share else 0
    return min(count, total - 1)


def _find_least(keys: Column, counted: Column, documents: tuple[int, int], share: float) -> int:
    """The least key of the ``counted`` documents of a source that stay in training; a smaller key is held out.

    Keys are counted by their highest bits first, so that only those around the border are sorted.
    """

    def kept() -> Iterator[UInt64[np.ndarray, "_"]]:
        for start, end in chunks(*documents):
            yield keys.read(start, end)[counted.read(start, end)]

    shift = np.uint64(64 - _BIN_BITS)
    counts = sum((np.bincount(each >> shift, minlength=1 << _BIN_BITS) for each in kept()), np.zeros(1 << _BIN_BITS))
    count = count_held_out(int(counts.sum()), share)
    if count <= 0:
        return 0
    before = np.cumsum(counts)
    border = int(np.searchsorted(before, count, side="right"))
    near = np.sort(np.concatenate([each[each >> shift == border] for each in kept()]))
    return int(near[count - int(before[border - 1] if border else 0)])
