"""Keeps evaluation prompts out of the training text: finds long runs of words, counted relative to the prompt.

A run is 13 words in a row, as in GPT-3 (2005.14165), or 20 characters of Han, which are about as many words. The title
of a statute or a set phrase is shorter. One run is no contamination. A document holds a prompt when its runs cover half
of the prompt's words, or the share in the recipe, as Tulu 3 counts (2411.15124; Llama 2, 2307.09288, counts covered
tokens in the same way). Then the passages are cut with the rest of their sentences, at most 200 characters to either
side as in GPT-3, or the document is dropped.

Prompts share the form of their questions, but not the content, and training may teach the form. So of a probe, only
runs that a single prompt has are looked for. Of the prompts of a file, runs that most of them have, such as worked
examples before each question, are not looked for.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt64

from ropewalk.core.digest import digest_bytes, digest_value
from ropewalk.core.error import UserError
from ropewalk.core.progress import say, warn
from ropewalk.core.quantity import format_count
from ropewalk.core.ranges import expand_ranges
from ropewalk.corpus.dedup.prompt_texts import read_prompt_texts
from ropewalk.corpus.prompt_rules import PROBES, PromptRules
from ropewalk.corpus.read.source import digest_files
from ropewalk.corpus.spec import Source
from ropewalk.corpus.text.shingle import find_words, shingles

RUN_WORDS, RUN_HAN = 13, 20
_HAN_PROMPT = 0.25
"""Share of single-character words in a prompt. From this share on, its runs are counted in characters of Han."""
_BLOCK_CHARACTERS, _OVERLAP_CHARACTERS = 1 << 20, 1 << 10
"""A text is searched in blocks. Each block includes the beginning of the next one."""
_SENTENCE_CHARACTERS = 200
_SENTENCE_END = re.compile(r"[\n。！？!?]|\.(?=\s)")
_FEW_PROMPTS = 10
"""A run is part of the form only if at least this many prompts share it. Fewer prompts may be about one passage."""
_FORMAT = 1
_SHOWN_NAMES = 3
Spans = tuple[tuple[int, int], ...]


class Overlap(NamedTuple):
    """The prompt with the largest share of words in a document, this share, and the passages of all prompts found."""

    prompt: str
    share: float
    spans: Spans


@dataclass(frozen=True, slots=True)
class Runs:
    """All runs of ``width`` words of some prompts, sorted. Run ``r`` stands in prompt ``owner[p]`` from word ``at[p]``
    on, for each place ``p`` in ``[first[r], first[r + 1])``."""

    width: int
    values: UInt64[np.ndarray, "runs"]
    first: Int64[np.ndarray, "runs+1"]
    owner: Int64[np.ndarray, "places"]
    at: Int64[np.ndarray, "places"]

    def find(self, words: UInt64[np.ndarray, "words"]) -> tuple[Int64[np.ndarray, "hits"], Int64[np.ndarray, "hits"]]:
        """``(word, run)`` for every word at which one of the runs begins."""
        if len(words) < self.width:
            return _NOTHING, _NOTHING
        found = shingles(words, self.width)
        at = np.minimum(np.searchsorted(self.values, found), len(self.values) - 1)
        hits = np.flatnonzero(self.values[at] == found)
        return hits, at[hits].astype(np.int64)

    def cover(self, runs: Int64[np.ndarray, "found"], prompts: int) -> Float64[np.ndarray, "prompts"]:
        """The number of words of each prompt that stand in one of ``runs``. Each run is given once."""
        places, _ = self._places_of(runs)
        owner, at = self.owner[places], self.at[places]
        order = np.lexsort((at, owner))
        owner, at = owner[order], at[order]
        new = np.full(len(at), self.width)
        new[:-1] = np.where(owner[1:] == owner[:-1], np.minimum(at[1:] - at[:-1], self.width), self.width)
        return np.bincount(owner, weights=new, minlength=prompts)

    def are_of(
        self, prompts: Bool[np.ndarray, "prompts"], runs: Int64[np.ndarray, "found"]
    ) -> Bool[np.ndarray, "found"]:
        """For each of ``runs``, whether it stands in one of ``prompts``."""
        places, starts = self._places_of(runs)
        return np.logical_or.reduceat(prompts[self.owner[places]], starts) if len(runs) else np.empty(0, dtype=bool)

    def _places_of(
        self, runs: Int64[np.ndarray, "found"]
    ) -> tuple[Int64[np.ndarray, "places"], Int64[np.ndarray, "found"]]:
        """All places of ``runs``, run after run, and the index at which the places of each run begin."""
        counts = self.first[runs + 1] - self.first[runs]
        starts = np.cumsum(counts) - counts
        return expand_ranges(self.first[runs], counts), starts

    def to_json(self) -> dict[str, Any]:
        columns = {"values": self.values, "first": self.first, "owner": self.owner, "at": self.at}
        return {"width": self.width, **{key: column.tolist() for key, column in columns.items()}}

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> "Runs":
        """The inverse of ``to_json``."""
        columns = {key: np.array(entry[key], dtype=np.int64) for key in ("first", "owner", "at")}
        return cls(entry["width"], np.array(entry["values"], dtype=np.uint64), **columns)


_NOTHING = np.empty(0, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Prompts:
    """The prompts to look for. ``words``: compared words of each prompt. ``digest``: identifies the whole value."""

    runs: tuple[Runs, ...]
    names: tuple[str, ...]
    words: Int64[np.ndarray, "prompts"]
    overlap: float
    action: Literal["cut", "drop"]
    digest: tuple[str, ...]
    too_short: int = 0
    """Number of prompts that are not looked for."""

    def to_json(self) -> dict[str, Any]:
        """As JSON, for workers. They share nothing else with the process that read the prompts."""
        return {
            "runs": [runs.to_json() for runs in self.runs],
            "names": self.names,
            "words": self.words.tolist(),
            "overlap": self.overlap,
            "action": self.action,
            "digest": self.digest,
            "too_short": self.too_short,
        }

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> "Prompts":
        """The inverse of ``to_json``."""
        runs = tuple(map(Runs.from_json, entry["runs"]))
        words = np.array(entry["words"], dtype=np.int64)
        return cls(**{**entry, "runs": runs, "words": words, **{k: tuple(entry[k]) for k in ("names", "digest")}})

    def find(self, text: str) -> Overlap | None:
        """The overlap of a text with the prompts; None where the text holds too little of each prompt."""
        if not self.runs:
            return None
        hits = [(runs, self._find_hits(text, runs)) for runs in self.runs]
        if not any(len(run) for _, (run, _) in hits):
            return None
        found = [(runs, *np.unique(run, return_inverse=True), places) for runs, (run, places) in hits]
        covered = sum((runs.cover(own, len(self.names)) for runs, own, _, _ in found), np.zeros(len(self.names)))
        share = covered / np.maximum(self.words, 1)
        held = share >= self.overlap - 1e-9
        if not held.any():
            return None
        chosen = [places[runs.are_of(held, own)[which]] for runs, own, which, places in found]
        spans = sorted(np.concatenate(chosen).tolist())
        most = int(np.argmax(share))
        return Overlap(self.names[most], float(share[most]), _widen(text, spans))

    def _find_hits(self, text: str, runs: Runs) -> tuple[Int64[np.ndarray, "hits"], Int64[np.ndarray, "hits 2"]]:
        """For each place of a run in the text: the run, and the start and end of the place in characters."""
        found, places = [_NOTHING], [np.empty((0, 2), dtype=np.int64)]
        for begin in range(0, len(text), _BLOCK_CHARACTERS):
            words = find_words(text[begin : begin + _BLOCK_CHARACTERS + _OVERLAP_CHARACTERS])
            at, run = runs.find(words.hashes)
            found.append(run)
            places.append(begin + np.stack([words.start[at], words.end[at + runs.width - 1]], axis=1))
        return np.concatenate(found), np.concatenate(places)


def read_prompts(rules: PromptRules, probes: Mapping[str, Sequence[str]] | None = None) -> Prompts:
    """Read the prompts of files, folders and globs, and of ``probes`` where the rules name them.

    A prompt with fewer words than a run is not looked for, and this is reported. Raises UserError where none is left.
    """
    asked: list[_Asked] = []
    digests = [digest_value([_FORMAT, rules.overlap, rules.action, rules.text_key])] if rules.files else []
    for path in rules.files:
        if path == PROBES:
            if not probes:
                warn("warning: decontaminate names probes, but the recipe's evaluation asks no prompts")
            for task, texts in (probes or {}).items():
                own = _look_for([(f"{task}, prompt {n}", text) for n, text in enumerate(texts)], shared=2, apart=False)
                asked += own
                digests.append(digest_bytes(np.concatenate([each.runs[each.places] for each in own]).tobytes()))
            continue
        source = Source(name="decontaminate", path=path, role="general", language="none")
        found = [*read_prompt_texts(source, rules.text_key)]
        asked += _look_for(found, shared=max(_FEW_PROMPTS, len(found) // 2 + 1), apart=True)
        digests.append(digest_value(digest_files(source)))
    long = [each for each in asked if len(each.places)]
    _tell_short([each.name for each in asked if not len(each.places)], len(asked), rules)
    runs = tuple(_gather(long, width) for width in sorted({each.width for each in long}))
    names = tuple(each.name for each in long)
    compared = sum((each.cover(np.arange(len(each.values)), len(names)) for each in runs), np.zeros(len(names)))
    return Prompts(
        runs,
        names,
        compared.astype(np.int64),
        overlap=rules.overlap,
        action=rules.action,
        digest=tuple(digests),
        too_short=len(asked) - len(long),
    )


class _Asked(NamedTuple):
    """A prompt with all its runs of ``width`` words, and the first word of each run that is looked for."""

    name: str
    width: int
    runs: UInt64[np.ndarray, "runs"]
    places: Int64[np.ndarray, "places"]


def _look_for(texts: Sequence[tuple[str, str]], *, shared: int, apart: bool) -> list[_Asked]:
    """Prompts without the runs that at least ``shared`` of them have; with ``apart``, also without overlapping runs."""
    asked = []
    for name, text in texts:
        words = find_words(text)
        width = RUN_HAN if len(words.alone) and words.alone.mean() >= _HAN_PROMPT else RUN_WORDS
        runs = shingles(words.hashes, width) if len(words.hashes) >= width else words.hashes[:0]
        asked.append(_Asked(name, width, runs, np.arange(len(runs))))
    every = np.concatenate([np.empty(0, dtype=np.uint64), *(np.unique(each.runs) for each in asked)])
    values, count = np.unique(every, return_counts=True)
    common = values[count >= shared]
    if not len(common):
        return asked
    kept = []
    for each in asked:
        is_common = np.isin(each.runs, common)
        if apart:  # a run that shares a word with a common run
            sums = np.concatenate([np.zeros(each.width), np.cumsum(is_common), np.full(each.width, is_common.sum())])
            at = np.arange(len(is_common)) + each.width
            is_common = sums[at + each.width - 1] > sums[at - each.width]
        kept.append(each._replace(places=np.flatnonzero(~is_common)))
    return kept


def _gather(asked: Sequence[_Asked], width: int) -> Runs:
    """The runs to look for, of the prompts whose runs are ``width`` words long."""
    chosen = [(number, each) for number, each in enumerate(asked) if each.width == width]
    every = np.concatenate([each.runs[each.places] for _, each in chosen])
    owner = np.concatenate([np.full(len(each.places), number) for number, each in chosen])
    at = np.concatenate([each.places for _, each in chosen])
    order = np.argsort(every, kind="stable")
    unique, first = np.unique(every[order], return_index=True)
    ends = np.append(first, len(every))
    return Runs(width, unique, *(column.astype(np.int64) for column in (ends, owner[order], at[order])))


def _tell_short(names: Sequence[str], count: int, rules: PromptRules) -> None:
    """Report the prompts that are not looked for. Raises UserError where no other prompt is left."""
    if (not names and count) or not rules.files or rules.files == (PROBES,):
        return
    limits = f"fewer than {RUN_WORDS} words, or than {RUN_HAN} Han characters, apart from words that most prompts share"
    if len(names) == count:
        raise UserError(
            "no evaluation prompt is long enough to search for",
            where=f"corpus.decontaminate: {', '.join(rules.files)}",
            why=f"all {count:,} have {limits}: so few words occur in any text by chance",
            fix="join each prompt with its context or its answer, give another text_key, or remove the files",
        )
    shown = ", ".join(names[:_SHOWN_NAMES]) + (", ..." if len(names) > _SHOWN_NAMES else "")
    say(
        f"decontaminate: {len(names):,} of {format_count(count, 'prompt')} {'is' if len(names) == 1 else 'are'} "
        f"not searched for ({limits}): {shown}"
    )


def _widen(text: str, spans: Iterable[Sequence[int]]) -> Spans:
    """Extend spans to the rest of their sentences. The result is sorted, and its spans do not overlap."""
    merged: list[tuple[int, int]] = []
    for start, end in spans:
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    apart: list[tuple[int, int]] = []
    for start, end in merged:
        before = text[max(0, start - _SENTENCE_CHARACTERS) : start]
        ends = [found.end() for found in _SENTENCE_END.finditer(before)]
        if ends or start <= _SENTENCE_CHARACTERS:
            start -= len(before) - (ends[-1] if ends else 0)
        after = _SENTENCE_END.search(text, end, end + _SENTENCE_CHARACTERS)
        if after is not None or len(text) - end <= _SENTENCE_CHARACTERS:
            end = len(text) if after is None else after.end()
        if apart and start <= apart[-1][1]:
            apart[-1] = (apart[-1][0], max(end, apart[-1][1]))
        else:
            apart.append((start, end))
    return tuple(apart)
