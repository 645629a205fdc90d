"""Keep evaluation prompts out of the training text: 13 words in a row, as GPT-3's authors first compared.

A document that shares any such run with a prompt is dropped whole, counted, and named in the store's manifest with the
prompt. A Han character is a word here. Of a probe's own prompts only runs that a single one has are looked for: what
they share is how the probe asks, which training may well teach, and not what it asks.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt64

from ropewalk.core.digest import digest_bytes, digest_file
from ropewalk.core.error import UserError
from ropewalk.core.record import Document
from ropewalk.corpus.language import blocks
from ropewalk.corpus.read import read_source
from ropewalk.corpus.shingle import shingles, word_hashes
from ropewalk.corpus.spec import PROBES, Source

RUN_WORDS = 13
_OVERLAP_CHARACTERS = 1024


@dataclass(frozen=True, slots=True)
class Prompts:
    """Every run of 13 words of the evaluation prompts, sorted, and whose it is; ``digest`` names all of them."""

    runs: UInt64[np.ndarray, "runs"]
    owner: Int64[np.ndarray, "runs"]
    names: tuple[str, ...]
    digest: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """For workers that share nothing else with the process that read the prompts."""
        return {"runs": self.runs.tolist(), "owner": self.owner.tolist(), "names": self.names, "digest": self.digest}

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> "Prompts":
        """The inverse of ``to_json``."""
        runs, owner = np.array(entry["runs"], dtype=np.uint64), np.array(entry["owner"], dtype=np.int64)
        return cls(runs, owner, tuple(entry["names"]), tuple(entry["digest"]))

    def find(self, text: str) -> str | None:
        """The name of a prompt that shares a run of words with the text, or None."""
        if len(self.runs) == 0:
            return None
        for block in blocks(text, overlap=_OVERLAP_CHARACTERS):
            found = shingles(word_hashes(block), RUN_WORDS)
            at = np.minimum(np.searchsorted(self.runs, found), len(self.runs) - 1)
            hits = np.flatnonzero(self.runs[at] == found)
            if len(hits):
                return self.names[int(self.owner[at[hits[0]]])]
        return None


def read_prompts(paths: Iterable[str], probes: Mapping[str, Sequence[str]] | None = None) -> Prompts:
    """The prompts of files that a source could read, and of ``probes`` where ``paths`` has that word.

    Raises UserError for one too short to be compared.
    """
    runs: list[UInt64[np.ndarray, _]] = []
    names: list[str] = []
    digests = []
    for path in paths:
        if path == PROBES:
            for task, texts in (probes or {}).items():
                unique = _own_runs(texts)
                runs += unique
                names += [f"{task}, prompt {number}" for number in range(len(unique))]
                digests.append(digest_bytes(np.concatenate(unique).tobytes()))
            continue
        source = Source(name="prompts", path=path, role="general", language="none")
        for document in read_source(source, seed=0):
            assert isinstance(document, Document)
            runs.append(_runs_of(document))
            names.append(document.id)
        digests.append(digest_file(Path(path)))
    joined = np.concatenate([np.empty(0, dtype=np.uint64), *runs])
    owner = np.repeat(np.arange(len(runs)), [len(run) for run in runs])
    values, first = np.unique(joined, return_index=True)
    return Prompts(values, owner[first].astype(np.int64), tuple(names), tuple(digests))


def _runs_of(document: Document) -> UInt64[np.ndarray, "_"]:
    words = word_hashes(document.text)
    if len(words) < RUN_WORDS:
        raise UserError(
            "an evaluation prompt is too short to look for",
            where=f"corpus.decontaminate: {document.id}",
            why=f"{len(words)} words; fewer than {RUN_WORDS} in a row are found in any text by chance",
            fix="join it with its context, or take it out of the file",
        )
    return shingles(words, RUN_WORDS)


def _own_runs(texts: Sequence[str]) -> list[UInt64[np.ndarray, "_"]]:
    """For each text the runs that no other one has."""
    each = [np.unique(shingles(word_hashes(text), RUN_WORDS)) for text in texts]
    values, count = np.unique(np.concatenate(each), return_counts=True)
    shared = values[count > 1]
    return [run[~np.isin(run, shared)] for run in each]
