"""Finds repeated sections, within a document or across all sources, as spans to cut: a chapter that two books share.

minhash.py compares whole documents, and a book that contains a chapter of another is never similar enough for it. Here
a text is a list of sentences and lines (units), and a pair of neighbouring units is searched for. A run of repeated
pairs that is long enough is cut from all documents except the first by rank. The first is not a copy of a better
document, has the role with priority, and is the longest. So a section is never cut if its original is dropped, and long
documents stay complete.
"""

from array import array
from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int64, Shaped, UInt8, UInt32, UInt64

from ropewalk.core.record import Role
from ropewalk.corpus.dedup.copies_on_disk import Copies
from ropewalk.corpus.dedup.decontaminate import Spans
from ropewalk.corpus.dedup.external_sort import Column, PairSpool, any_of_each
from ropewalk.corpus.prepare.filters import Cuts
from ropewalk.corpus.spec import Source
from ropewalk.corpus.text.language import code_points, table_of
from ropewalk.corpus.text.shingle import shingles, window_hashes

_BREAKS, _STOPS = "\n。！？", ".!?"
_BREAK, _STOP = 1, 2
_SPACE = np.uint32(ord(" "))
_PART_CHARACTERS = 1 << 20


def is_searched(source: Source) -> bool:
    """Whether sections may be cut from the documents of a source."""
    return source.embedded is None and source.role != "instruction" and not source.tokens


def find_spans(
    surveyed: Sequence[tuple[Role, Sequence[Path]]], *, characters: int, threshold: float, scratch: Path
) -> UInt64[np.ndarray, "spans 4"]:
    """Return ``source, digest, start, end`` of every span to cut of at least ``characters`` characters.

    ``surveyed`` holds the role and the survey folders of each source. Memory holds the survey of one shard at a time.
    """
    shards = [(role, part) for role, parts in surveyed for part in parts]
    homes = [number for number, (_, parts) in enumerate(surveyed) for _ in parts]
    copies = Copies(shards, scratch)
    stays = copies.find_best(copies.equal, "equal")
    marks, starts, has_mark = _mark_pairs(copies, [part for _, part in shards], threshold, scratch)
    spans = _Spans()
    for (first, last), (_, part), home in zip(pairwise(copies.borders), shards, homes, strict=True):
        kept = stays.read(first, last)
        marked = np.flatnonzero(has_mark.open()[kept])
        if not len(marked):
            continue
        borders = np.append(0, np.cumsum(_load(part, "counts")[:, 1]))
        begins, ends, digests = starts.open(), np.fromfile(part / "ends", dtype="<i8"), _load(part, "digests")
        for number in marked.tolist():
            own_ends = ends[borders[number] : borders[number + 1]]
            if len(own_ends):  # cut like every other document with its text, so that both are tokenised once
                own = int(kept[number])
                repeated = marks.read(int(begins[own]), int(begins[own + 1]))
                spans.add(home, int(digests[number]), _long_runs(repeated, own_ends, characters))
    return spans.list_once()


class _Spans:
    """Spans of documents. A text that stands in a source several times has them once."""

    def __init__(self) -> None:
        self._rows, self._documents = array("Q"), 0

    def add(self, source: int, digest: int, runs: Sequence[tuple[int, int]]) -> None:
        """Note the spans of a document."""
        for start, end in runs:
            self._rows.extend((source, digest, start, end, self._documents))
        self._documents += 1

    def list_once(self) -> UInt64[np.ndarray, "spans 4"]:
        """``source, digest, start, end`` of all spans, in the order in which their texts were first noted."""
        rows = np.array(self._rows, dtype=np.uint64).reshape(-1, 5)
        _, first, same = np.unique(rows[:, :2], axis=0, return_index=True, return_inverse=True)
        is_first: Bool[np.ndarray, spans] = rows[:, 4] == rows[first[same.reshape(-1)], 4]
        return rows[is_first, :4]


def _mark_pairs(
    copies: Copies, parts: Sequence[Path], threshold: float, scratch: Path
) -> tuple[Column, Column, Column]:
    """Three columns: whether each pair is repeated, the first pair of each document, whether one of its pairs is.

    Only the best document of each group of near copies is compared.
    """
    best = copies.find_best(copies.group(threshold), "near")
    pairs = sum((part / "pairs").stat().st_size for part in parts) // 8
    spool = PairSpool(scratch / "pairs", pairs)
    starts = Column(scratch / "starts", copies.documents + 1)
    at = 0
    for (first, last), part in zip(pairwise(copies.borders), parts, strict=True):
        counts = _load(part, "counts")[:, 0]
        starts.write(first, at + np.append(0, np.cumsum(counts)))
        compared = np.repeat(best.read(first, last) == np.arange(first, last), counts)
        numbers = np.fromfile(part / "pairs", dtype="<u8")[compared]
        rank = np.repeat(copies.rank.read(first, last), counts)[compared]
        spool.add(numbers, rank=rank, place=at + np.flatnonzero(compared))
        at += int(counts.sum())
    marks = spool.find_repeated()
    has_mark = Column(scratch / "has_mark", copies.documents, np.bool_)
    for first, last in pairwise(copies.borders):
        own = starts.read(first, last + 1)
        has_mark.write(first, any_of_each(marks.read(int(own[0]), int(own[-1])), np.diff(own)))
    return marks, starts, has_mark


def make_cuts(spans: UInt64[np.ndarray, "spans 4"], names: Sequence[str]) -> dict[str, Cuts]:
    """The spans of ``find_spans`` as cuts, by the names of the sources."""
    entries: dict[str, defaultdict[int, Spans]] = {name: defaultdict(tuple) for name in names}
    for number, digest, start, end in spans.tolist():
        entries[names[number]][digest] += ((start, end),)
    return {name: Cuts(dict(found)) for name, found in entries.items()}


def _load(part: Path, column: str) -> Shaped[np.ndarray, "..."]:
    values: np.ndarray = np.load(part / f"{column}.npy", allow_pickle=False)
    return values


_NO_PAIRS = (np.empty(0, dtype=np.uint64), np.empty(0, dtype=np.int64))


def find_pairs(text: str) -> tuple[UInt64[np.ndarray, "pairs"], Int64[np.ndarray, "units"]]:
    """A hash of each pair of neighbouring sentences or lines (units), and the end of each unit in characters."""
    borders = _find_borders(text)
    starts = np.concatenate([[0], borders[:-1]])
    # Empty lines belong to the unit before them, so that a pair always has two units with text.
    says = borders - starts > 1
    if not says.all():
        borders = np.append(borders[np.flatnonzero(says)[1:] - 1], len(text)) if says.any() else borders[-1:]
        starts = np.concatenate([[0], borders[:-1]])
    parts = np.searchsorted(starts, np.arange(_PART_CHARACTERS, len(text), _PART_CHARACTERS))
    edges = np.unique([0, *parts.tolist(), len(starts)]).tolist()
    units = np.concatenate([_hash_units(text, starts[a:b], borders[a:b]) for a, b in pairwise(edges)])
    return shingles(units, 2) if len(units) > 1 else _NO_PAIRS[0], borders.astype(np.int64)


def _find_borders(text: str) -> Int64[np.ndarray, "units"]:
    """The ends of sentences and lines, in characters. A text is never in memory as code points as a whole."""
    found = []
    for start in range(0, max(1, len(text)), _PART_CHARACTERS):
        points = code_points(text[start : start + _PART_CHARACTERS + 1])
        found.append(start + 1 + np.flatnonzero(find_breaks(points)[:_PART_CHARACTERS]))
    borders = np.concatenate(found)
    return borders if len(borders) and borders[-1] == len(text) else np.append(borders, len(text))


def find_breaks(points: UInt32[np.ndarray, "characters"]) -> Bool[np.ndarray, "characters"]:
    """Whether a sentence or line ends with each character."""
    kinds = _kinds().take(points)
    ends: Bool[np.ndarray, characters] = kinds == _BREAK
    ends[:-1] |= (kinds[:-1] == _STOP) & (points[1:] == _SPACE)
    return ends


@cache
def _kinds() -> UInt8[np.ndarray, "code_points"]:
    """For every code point whether it ends a sentence, or does so before a space."""
    kinds = table_of((0,), (0,)).copy()
    for kind, signs in ((_BREAK, _BREAKS), (_STOP, _STOPS)):
        kinds[[ord(sign) for sign in signs]] = kind
    return kinds


def _hash_units(
    text: str, starts: Int64[np.ndarray, "units"], ends: Int64[np.ndarray, "units"]
) -> UInt64[np.ndarray, "units"]:
    """A hash of each of some neighbouring units."""
    first = int(starts[0])
    points = code_points(text[first : int(ends[-1])])
    return window_hashes(points, *trim_units(points, starts - first, ends - first))


def trim_units(
    points: UInt32[np.ndarray, "characters"], starts: Int64[np.ndarray, "units"], ends: Int64[np.ndarray, "units"]
) -> tuple[Int64[np.ndarray, "units"], Int64[np.ndarray, "units"]]:
    """The units without white space around them, so that the last line of a paragraph is equal in another place."""
    seen = np.flatnonzero(points > _SPACE)
    first = np.searchsorted(seen, starts)
    last = np.searchsorted(seen, ends) - 1
    empty = first > last
    at = np.append(seen, 0)
    return np.where(empty, starts, at[first]), np.where(empty, starts, at[last] + 1)


def _long_runs(
    repeated: Bool[np.ndarray, "pairs"], ends: Int64[np.ndarray, "units"], characters: int
) -> list[tuple[int, int]]:
    """Spans of at least ``characters`` characters in which every unit belongs to a repeated pair."""
    if not repeated.any():
        return []
    inside = np.zeros(len(ends) + 2, dtype=bool)
    inside[1:-2] |= repeated
    inside[2:-1] |= repeated
    borders = np.flatnonzero(np.diff(inside))
    starts = np.concatenate([[0], ends])
    spans = [(int(starts[first]), int(starts[end])) for first, end in zip(borders[::2], borders[1::2], strict=True)]
    return [(start, end) for start, end in spans if end - start >= characters]
