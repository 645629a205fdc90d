"""Finds the spans to cut from each document of a corpus. Any worker surveys shards; one process compares them, once.

The result is a finished folder in the store. It is named by a digest of its inputs, so the next run finds it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ropewalk.core.artifact import is_finished, new_folder
from ropewalk.core.digest import digest_value
from ropewalk.corpus.dedup.clusters import leak_threshold
from ropewalk.corpus.dedup.external_sort import own_scratch
from ropewalk.corpus.prepare.assemble_shards import check_shards
from ropewalk.corpus.prepare.filters import Cuts
from ropewalk.corpus.prepare.repeated_sections import find_spans, is_searched, make_cuts
from ropewalk.corpus.prepare.shards import Job
from ropewalk.corpus.spec import CorpusSpec, Source

_FORMAT = 1
_SURVEY = 2
"""Format of a survey. 2: it keeps the clean text."""
_SCRATCH = ".sections"


@dataclass(frozen=True)
class RepeatSearch:
    """A search for repeated sections. Without ``surveys`` no search is made and nothing is cut."""

    spec: CorpusSpec
    surveys: tuple[Job, ...]
    """The surveys of all text sources, in the order of the corpus."""

    @cached_property
    def folder(self) -> Path:
        """The folder of the result, finished or not."""
        return Path(self.spec.store) / f"sections-{digest_value(self._inputs)}"

    @property
    def is_surveyed(self) -> bool:
        """Whether workers have nothing left to do."""
        if is_finished(self.folder):
            return True
        made = all(job.is_made(stream) for job in self.surveys for stream in range(len(job.streams)))
        return made or is_finished(self.folder)  # surveys that were removed meanwhile have been compared

    def survey_of(self, name: str) -> dict[str, Any] | None:
        """The inputs of the survey of a source; None where it is not surveyed."""
        return next((job.inputs for job in self.surveys if job.source.name == name), None)

    def discard(self) -> None:
        """Remove the surveys. It is safe when all sources are tokenised."""
        for job in self.surveys:
            job.discard()

    @property
    def _inputs(self) -> dict[str, Any]:
        characters, threshold = self.spec.repeated_sections, self._threshold
        sources = [[job.source.role, job.inputs] for job in self.surveys]
        return {"format": _FORMAT, "characters": characters, "threshold": threshold, "sources": sources}

    @property
    def _threshold(self) -> float:
        return leak_threshold([self.spec.near_duplicates_of(source) for source in self.spec.sources])

    def find_cuts(self) -> dict[str, Cuts]:
        """Return the cuts of each source. A second process with the same search waits for it.

        Raises UserError for a source without any document left.
        """
        cuts = {source.name: Cuts() for source in self.spec.sources}
        if not self.surveys:
            return cuts
        with own_scratch(Path(self.spec.store) / _SCRATCH) as scratch:
            # Another machine may have compared meanwhile. A network file system remembers for up to a minute that a
            # name was not there, unless the folder is listed; and no second result takes the place of the first.
            any(self.folder.parent.iterdir())
            if not is_finished(self.folder):
                self._compare(scratch)
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


def plan_search(spec: CorpusSpec, jobs: Sequence[Job]) -> RepeatSearch:
    """The search that ``spec`` requests. ``jobs`` tokenise its sources; here they are turned into surveys."""
    # A conversation is laid out for one model and never cut, so it is cleaned when it is tokenised, and not before.
    texts = [job for job in jobs if not job.source.tokens and not _is_chat(job.source)]
    if spec.repeated_sections is None or not any(is_searched(job.source) for job in texts):
        return RepeatSearch(spec, ())
    surveys = []
    for job in texts:
        inputs = {"survey": _SURVEY, "searched": is_searched(job.source), **job.inputs}
        surveys.append(replace(job, cuts=None, inputs=inputs))
    return RepeatSearch(spec, tuple(surveys))


def _is_chat(source: Source) -> bool:
    return source.embedded is None and source.record_options.is_chat
