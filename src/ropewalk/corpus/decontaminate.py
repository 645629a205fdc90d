"""Keep evaluation prompts out of the training text: long runs of words, counted relative to the prompt.

A run is 13 words in a row, as GPT-3's authors compared (2005.14165), or 20 characters of Han, which are about as many
words: a statute's title or a set phrase is shorter. One run is no contamination: a document holds a prompt when its
runs cover half of the prompt's words or what the recipe says, as Tulu 3 counts (2411.15124; Llama 2, 2307.09288, counts
covered tokens in the same way). Then the passages are cut with the rest of their sentences, 200 characters to either
side at most, which GPT-3's authors took; or the document is dropped. Of a probe's own prompts only runs that a single
one has are looked for: what they share is how the probe asks, which training may well teach, and not what it asks.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt64

from ropewalk.core.digest import digest_bytes, digest_value
from ropewalk.core.error import UserError
from ropewalk.core.progress import say
from ropewalk.corpus.prompt_rules import PROBES, PromptRules
from ropewalk.corpus.prompt_texts import read_texts
from ropewalk.corpus.read import digest_files
from ropewalk.corpus.shingle import Words, find_words, shingles
from ropewalk.corpus.spec import Source

RUN_WORDS, RUN_HAN = 13, 20
_HAN_PROMPT = 0.25
"""Share of a prompt's words that are single characters from which its runs are Han's."""
_BLOCK_CHARACTERS, _OVERLAP_CHARACTERS = 1 << 20, 1 << 10
"""A text is looked at in blocks, each with the beginning of the next one."""
_SENTENCE_CHARACTERS = 200
_SENTENCE_END = re.compile(r"[\n。！？!?]|\.(?=\s)")
_FORMAT = 1
_SHOWN_NAMES = 3
Spans = tuple[tuple[int, int], ...]


class Overlap(NamedTuple):
    """The prompt of which a document holds most, how much of its words, and the passages of all that it holds."""

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
        """How many words of each prompt stand in one of some runs."""
        chosen = np.zeros(len(self.values), dtype=bool)
        chosen[runs] = True
        places = np.repeat(chosen, np.diff(self.first))
        owner, at = self.owner[places], self.at[places]
        order = np.lexsort((at, owner))
        owner, at = owner[order], at[order]
        new = np.full(len(at), self.width)
        new[:-1] = np.where(owner[1:] == owner[:-1], np.minimum(at[1:] - at[:-1], self.width), self.width)
        return np.bincount(owner, weights=new, minlength=prompts)

    def are_of(self, prompts: Bool[np.ndarray, "prompts"]) -> Bool[np.ndarray, "runs"]:
        """For each run whether it stands in one of some prompts."""
        return np.logical_or.reduceat(prompts[self.owner], self.first[:-1])

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
    """What is looked for. ``words`` counts each prompt's words that are compared; ``digest`` names all of it."""

    runs: tuple[Runs, ...]
    names: tuple[str, ...]
    words: Int64[np.ndarray, "prompts"]
    overlap: float
    action: Literal["cut", "drop"]
    digest: tuple[str, ...]
    too_short: int = 0
    """Prompts that are not looked for."""

    def to_json(self) -> dict[str, Any]:
        """For workers that share nothing else with the process that read the prompts."""
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
        """What of the prompts a text holds; None where it holds too little of each."""
        if not self.runs:
            return None
        hits = [self._find_hits(text, runs) for runs in self.runs]
        if not any(len(found) for found, _ in hits):
            return None
        covered = sum(
            runs.cover(np.unique(found), len(self.names)) for runs, (found, _) in zip(self.runs, hits, strict=True)
        )
        share = np.asarray(covered / np.maximum(self.words, 1))
        held = share >= self.overlap - 1e-9
        if not held.any():
            return None
        spans = [
            span
            for runs, (found, places) in zip(self.runs, hits, strict=True)
            for span in places[runs.are_of(held)[found]].tolist()
        ]
        most = int(np.argmax(share))
        return Overlap(self.names[most], float(share[most]), _widen(text, sorted(spans)))

    def _find_hits(self, text: str, runs: Runs) -> tuple[Int64[np.ndarray, "hits"], Int64[np.ndarray, "hits 2"]]:
        """The run, and the characters from and to which it stands in the text, for each place in which one does."""
        found, places = [_NOTHING], [np.empty((0, 2), dtype=np.int64)]
        for begin in range(0, len(text), _BLOCK_CHARACTERS):
            words = find_words(text[begin : begin + _BLOCK_CHARACTERS + _OVERLAP_CHARACTERS])
            at, run = runs.find(words.hashes)
            found.append(run)
            places.append(begin + np.stack([words.start[at], words.end[at + runs.width - 1]], axis=1))
        return np.concatenate(found), np.concatenate(places)


def read_prompts(rules: PromptRules, probes: Mapping[str, Sequence[str]] | None = None) -> Prompts:
    """The prompts of files, folders and globs, and of ``probes`` where the rules name them.

    One with fewer words than a run is not looked for, and that is said. Raises UserError where none is left.
    """
    texts: list[tuple[str, Words, UInt64[np.ndarray, _] | None]] = []
    digests = [digest_value([_FORMAT, rules.overlap, rules.action, rules.text_key])] if rules.files else []
    for path in rules.files:
        if path == PROBES:
            for task, asked in (probes or {}).items():
                own = _own_runs(asked)
                texts += [(f"{task}, prompt {n}", find_words(text), own[n]) for n, text in enumerate(asked)]
                digests.append(digest_bytes(np.concatenate(own).tobytes()))
            continue
        source = Source(name="decontaminate", path=path, role="general", language="none")
        texts += [(name, find_words(text), None) for name, text in read_texts(source, rules.text_key)]
        digests.append(digest_value(digest_files(source)))
    long = [each for each in texts if len(each[1].hashes) >= _width(each[1])]
    _tell_short([name for name, words, _ in texts if len(words.hashes) < _width(words)], len(texts), rules)
    gathered = [_gather(long, width) for width in sorted({_width(words) for _, words, _ in long})]
    runs = tuple(each for each in gathered if len(each.values))
    names = tuple(name for name, _, _ in long)
    compared = sum((each.cover(np.arange(len(each.values)), len(names)) for each in runs), np.zeros(len(names)))
    return Prompts(
        runs,
        names,
        compared.astype(np.int64),
        overlap=rules.overlap,
        action=rules.action,
        digest=tuple(digests),
        too_short=len(texts) - len(long),
    )


def _width(words: Words) -> int:
    return RUN_HAN if len(words.alone) and words.alone.mean() >= _HAN_PROMPT else RUN_WORDS


def _gather(texts: Sequence[tuple[str, Words, UInt64[np.ndarray, "_"] | None]], width: int) -> Runs:
    """The runs of those texts whose runs are ``width`` wide; of one with runs of its own only these."""
    values, owner, at = [np.empty(0, dtype=np.uint64)], [_NOTHING], [_NOTHING]
    for number, (_, words, own) in enumerate(texts):
        if _width(words) != width:
            continue
        found = shingles(words.hashes, width)
        places = np.arange(len(found)) if own is None else np.flatnonzero(np.isin(found, own))
        values.append(found[places])
        owner.append(np.full(len(places), number))
        at.append(places)
    every = np.concatenate(values)
    order = np.argsort(every, kind="stable")
    unique, first = np.unique(every[order], return_index=True)
    return Runs(
        width,
        unique,
        np.append(first, len(every)).astype(np.int64),
        np.concatenate(owner)[order].astype(np.int64),
        np.concatenate(at)[order].astype(np.int64),
    )


def _own_runs(texts: Sequence[str]) -> list[UInt64[np.ndarray, "_"]]:
    """For each text the runs that no other one has."""
    found = [find_words(text) for text in texts]
    each = [np.unique(shingles(words.hashes, _width(words))) for words in found]
    values, count = np.unique(np.concatenate(each), return_counts=True)
    shared = values[count > 1]
    return [run[~np.isin(run, shared)] for run in each]


def _tell_short(names: Sequence[str], count: int, rules: PromptRules) -> None:
    """Say which prompts are not looked for. Raises UserError where there is no other."""
    if (not names and count) or not rules.files or rules.files == (PROBES,):
        return
    limits = f"fewer than {RUN_WORDS} words, or than {RUN_HAN} characters of Han"
    if len(names) == count:
        raise UserError(
            "no evaluation prompt is long enough to look for",
            where=f"corpus.decontaminate: {', '.join(rules.files)}",
            why=f"all {count:,} have {limits}: so few in a row are found in any text by chance",
            fix="join each with its context or its answer, name another text_key, or take the files out",
        )
    shown = ", ".join(names[:_SHOWN_NAMES]) + (", ..." if len(names) > _SHOWN_NAMES else "")
    say(f"decontaminate: {len(names):,} of {count:,} prompts are not looked for ({limits}): {shown}")


def _widen(text: str, spans: Iterable[Sequence[int]]) -> Spans:
    """Spans with the rest of their sentences, in order and apart from each other."""
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
