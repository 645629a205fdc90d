"""Sections that stand twice, within a document or across all sources, as spans to cut: a chapter that two books share.

Documents are compared as wholes elsewhere (dedup.py); a book with another's chapter in it never is their like. Here a
text is a run of sentences and lines, and a pair of neighbours is what can be met again. A run of such pairs that is
long enough is cut everywhere but in the document that stays first: one that is no copy of a better one, of the role
that wins, the longest. So nothing is cut whose original is dropped, and long documents stay whole.
"""

import tempfile
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int64, UInt32, UInt64

from ropewalk.core.artifact import is_finished, new_folder
from ropewalk.core.digest import digest_value
from ropewalk.core.progress import say
from ropewalk.core.record import Document
from ropewalk.corpus.copies import find_best, group_copies, group_equal, leak_threshold, rank_documents
from ropewalk.corpus.decontaminate import Prompts
from ropewalk.corpus.dedup import sign
from ropewalk.corpus.language import code_points
from ropewalk.corpus.origin import describe_text
from ropewalk.corpus.pair_spool import PairSpool
from ropewalk.corpus.read import read_source
from ropewalk.corpus.screen import Cuts, Screen, Spans
from ropewalk.corpus.shingle import shingles, window_hashes
from ropewalk.corpus.spec import CorpusSpec, Source

_FORMAT = 1
_BREAKS = np.array([ord(sign) for sign in "\n。！？"], dtype=np.uint32)
_STOPS = np.array([ord(sign) for sign in ".!?"], dtype=np.uint32)
_SPACE = np.uint32(ord(" "))


@dataclass(slots=True)
class _Survey:
    """What is learnt of one source's clean documents on the way by."""

    digests: list[int] = field(default_factory=list)
    signatures: list[np.ndarray] = field(default_factory=list)
    whole_bytes: list[int] = field(default_factory=list)


def find_cuts(spec: CorpusSpec, *, prompts: Prompts, seed: int, store: Path) -> dict[str, Cuts]:
    """For each source what is cut from which of its documents; found in ``store`` where it was asked before."""
    nothing = {source.name: Cuts() for source in spec.sources}
    if spec.repeated_sections is None or not any(map(_is_searched, spec.sources)):
        return nothing
    inputs = {
        "format": _FORMAT,
        "characters": spec.repeated_sections,
        "threshold": leak_threshold(spec.near_duplicates),
        "sources": [[source.role, describe_text(source, prompts=prompts, seed=seed)] for source in spec.sources],
    }
    folder = store / f"sections-{digest_value(inputs)}"
    if not is_finished(folder):
        say("looking for sections that stand twice")
        with tempfile.TemporaryDirectory(prefix=".tmp-sections-", dir=store) as scratch:
            found = _search(spec, prompts=prompts, seed=seed, scratch=Path(scratch))
        with new_folder(folder, kind="sections", inputs=inputs) as work:
            np.save(work / "cuts.npy", found, allow_pickle=False)
    entries: dict[str, defaultdict[int, Spans]] = {source.name: defaultdict(tuple) for source in spec.sources}
    for number, digest, start, end in np.load(folder / "cuts.npy", allow_pickle=False).tolist():
        entries[spec.sources[number].name][digest] += ((start, end),)
    return {name: Cuts(dict(spans)) for name, spans in entries.items()}


def _search(spec: CorpusSpec, *, prompts: Prompts, seed: int, scratch: Path) -> UInt64[np.ndarray, "spans 4"]:
    """``source, digest, start, end`` of every span to cut."""
    spool = PairSpool(scratch)
    surveys = [_survey(source, prompts, seed, spool) for source in spec.sources]
    exact = group_equal(np.array([d for survey in surveys for d in survey.digests], dtype=np.uint64))
    signatures = np.array([s for survey in surveys for s in survey.signatures], dtype=np.uint32).reshape(-1, 128)
    group = group_copies(exact, signatures, leak_threshold(spec.near_duplicates))
    roles = [source.role for source in spec.sources]
    rank = rank_documents(roles, [np.array(survey.whole_bytes, dtype=np.int64) for survey in surveys])
    repeated = spool.find_repeated(rank, find_best(group, rank) == np.arange(len(rank)))
    assert spec.repeated_sections is not None
    found: list[tuple[int, int, int, int]] = []
    documents = [(source, digest) for source, survey in enumerate(surveys) for digest in survey.digests]
    for position, (source, digest) in enumerate(documents):
        spans = _long_runs(repeated(position), spool.ends(position), spec.repeated_sections)
        found += [(source, digest, start, end) for start, end in spans]
    return np.array(found, dtype=np.uint64).reshape(-1, 4)


def _survey(source: Source, prompts: Prompts, seed: int, spool: PairSpool) -> _Survey:
    survey, screen = _Survey(), Screen(source, prompts, Cuts())
    for item in read_source(source, seed=seed):
        screened = screen.judge(item) if isinstance(item, Document) else None
        if screened is None or not isinstance(screened.outcome, Document):
            continue
        survey.digests.append(screened.digest)
        survey.signatures.append(sign(screened.whole))
        survey.whole_bytes.append(screened.whole_bytes)
        spool.add(*(find_pairs(screened.whole) if _is_searched(source) else _NO_PAIRS))
    return survey


def _is_searched(source: Source) -> bool:
    return source.embedded is None and source.role != "instruction"


_NO_PAIRS = (np.empty(0, dtype=np.uint64), np.empty(0, dtype=np.int64))


def find_pairs(text: str) -> tuple[UInt64[np.ndarray, "pairs"], Int64[np.ndarray, "units"]]:
    """A number for each pair of neighbouring sentences or lines, and where in the text each unit ends."""
    points = code_points(text)
    ends = np.isin(points, _BREAKS)
    ends[:-1] |= np.isin(points[:-1], _STOPS) & (points[1:] == _SPACE)
    borders = np.flatnonzero(ends) + 1
    if len(borders) == 0 or borders[-1] != len(points):
        borders = np.append(borders, len(points))
    starts = np.concatenate([[0], borders[:-1]])
    # Empty lines are part of what stands before them: a pair is of two units that say something.
    says = borders - starts > 1
    if not says.all():
        borders = np.append(borders[np.flatnonzero(says)[1:] - 1], len(points)) if says.any() else borders[-1:]
        starts = np.concatenate([[0], borders[:-1]])
    units = window_hashes(points, *_without_space(points, starts, borders))
    return shingles(units, 2) if len(units) > 1 else _NO_PAIRS[0], borders.astype(np.int64)


def _without_space(
    points: UInt32[np.ndarray, "characters"], starts: Int64[np.ndarray, "units"], ends: Int64[np.ndarray, "units"]
) -> tuple[Int64[np.ndarray, "units"], Int64[np.ndarray, "units"]]:
    """The units without the white space around them, so that a paragraph's last line is the same in another place."""
    seen = np.flatnonzero(points > _SPACE)
    first = np.searchsorted(seen, starts)
    last = np.searchsorted(seen, ends) - 1
    empty = first > last
    at = np.append(seen, 0)
    return np.where(empty, starts, at[first]), np.where(empty, starts, at[last] + 1)


def _long_runs(
    repeated: Bool[np.ndarray, "pairs"], ends: Int64[np.ndarray, "units"], characters: int
) -> list[tuple[int, int]]:
    """Spans of at least ``characters`` characters whose units all belong to repeated pairs."""
    if not repeated.any():
        return []
    inside = np.zeros(len(ends) + 2, dtype=bool)
    inside[1:-2] |= repeated
    inside[2:-1] |= repeated
    borders = np.flatnonzero(np.diff(inside))
    starts = np.concatenate([[0], ends])
    spans = [(int(starts[first]), int(starts[end])) for first, end in zip(borders[::2], borders[1::2], strict=True)]
    return [(start, end) for start, end in spans if end - start >= characters]
