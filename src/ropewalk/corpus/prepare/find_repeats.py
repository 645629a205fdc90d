"""What is cut from which documents of a corpus: surveyed in shards by any worker, compared once by one process.

The answer is a finished folder of the store, named by what it depends on, and found there by the next run.
"""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ropewalk.core.artifact import hold, is_finished, new_folder
from ropewalk.core.digest import digest_value
from ropewalk.corpus.dedup.clusters import leak_threshold
from ropewalk.corpus.prepare.filters import Cuts
from ropewalk.corpus.prepare.repeated_sections import find_spans, is_searched, make_cuts
from ropewalk.corpus.prepare.shards import Job, check_shards
from ropewalk.corpus.spec import CorpusSpec

_FORMAT = 1
_SCRATCH = ".sections"


@dataclass(frozen=True)
class Search:
    """A search for sections that stand twice. Without ``surveys`` none is asked for, and nothing is cut."""

    spec: CorpusSpec
    surveys: tuple[Job, ...]
    """Of all sources that are text, in the corpus's order."""

    @cached_property
    def folder(self) -> Path:
        """Where the answer is, or will be."""
        return Path(self.spec.store) / f"sections-{digest_value(self._inputs)}"

    @property
    def is_surveyed(self) -> bool:
        """Whether nothing is left to do for workers."""
        if is_finished(self.folder):
            return True
        made = all(job.is_made(stream) for job in self.surveys for stream in range(len(job.streams)))
        return made or is_finished(self.folder)  # surveys that vanished meanwhile have been compared

    @property
    def _inputs(self) -> dict[str, Any]:
        characters, threshold = self.spec.repeated_sections, self._threshold
        sources = [[job.source.role, job.inputs] for job in self.surveys]
        return {"format": _FORMAT, "characters": characters, "threshold": threshold, "sources": sources}

    @property
    def _threshold(self) -> float:
        return leak_threshold([self.spec.near_duplicates_of(source) for source in self.spec.sources])

    def find_cuts(self) -> dict[str, Cuts]:
        """For each source what is cut; who asks the same meanwhile waits for the answer. The surveys go.

        Raises UserError for a source of which nothing is left.
        """
        cuts = {source.name: Cuts() for source in self.spec.sources}
        if not self.surveys:
            return cuts
        with _own_scratch(Path(self.spec.store) / _SCRATCH) as scratch:
            if not is_finished(self.folder):
                self._compare(scratch)
            for job in self.surveys:
                job.discard()
        spans = np.load(self.folder / "cuts.npy", allow_pickle=False)
        return cuts | make_cuts(spans, [job.source.name for job in self.surveys])

    def _compare(self, scratch: Path) -> None:
        assert self.spec.repeated_sections is not None
        for job in self.surveys:
            check_shards(job)
        found = find_spans(
            [(job.source.role, job.parts()) for job in self.surveys],
            characters=self.spec.repeated_sections,
            threshold=self._threshold,
            scratch=scratch,
        )
        with new_folder(self.folder, kind="sections", inputs=self._inputs) as work:
            np.save(work / "cuts.npy", found, allow_pickle=False)


def plan_search(spec: CorpusSpec, jobs: Sequence[Job]) -> Search:
    """The search that a corpus asks for; ``jobs`` tokenise its sources, and are surveys here."""
    texts = [job for job in jobs if not job.source.tokens]
    if spec.repeated_sections is None or not any(is_searched(job.source) for job in texts):
        return Search(spec, ())
    surveys = []
    for job in texts:
        text = {key: value for key, value in job.inputs.items() if key != "chat"}  # conversations are not laid out yet
        inputs = {"survey": _FORMAT, "searched": is_searched(job.source), **text}
        surveys.append(replace(job, cuts=None, inputs=inputs))
    return Search(spec, tuple(surveys))


@contextmanager
def _own_scratch(folder: Path) -> Iterator[Path]:
    """A folder for one process at a time, empty at its begin and end, also where another one was killed in it."""
    scratch = folder / "pairs"
    with hold(folder, waits=True):
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        try:
            yield scratch
        finally:
            shutil.rmtree(scratch)
