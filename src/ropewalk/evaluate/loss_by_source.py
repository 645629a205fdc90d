"""Loss by source at the base's own context, for any text: what a longer context costs.

Base and extended model read the same segments, so their change is a ratio of two sums over the same documents. Its
interval is that of the pairs: much narrower than those of the two losses.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

from ropewalk.core.record import Score
from ropewalk.evaluate.items import Item, Sums
from ropewalk.evaluate.score import Estimate, Interval, mean_of, ratio


@dataclass(frozen=True)
class LossBySource:
    """Texts of several sources, with a group for each document; documents are numbered from source to source."""

    items: list[Item]
    sources: dict[str, tuple[int, int]]
    """The half-open range of each source's documents."""
    languages: dict[str, str]
    context_tokens: int

    name: ClassVar[str]
    kind: ClassVar[str]
    """Begins the names of the scores."""

    @property
    def groups(self) -> int:
        return max(end for _, end in self.sources.values())

    def score(self, sums: Sums, *, model: str) -> Iterator[Score]:
        """``KIND/SOURCE``: nats per token."""
        for source, (first, end) in self.sources.items():
            found = ratio(sums.nll[first:end], sums.count[first:end])
            language, tokens = self.languages[source], int(sums.count[first:end].sum())
            task = f"{self.kind}/{source}"
            yield self._record(
                found.interval, found, model=model, task=task, metric="nats", n=tokens, language=language
            )

    def score_change(self, before: Sums, after: Sums, *, model: str) -> Iterator[Score]:
        """``change/KIND/SOURCE``: 0.01 means 1 % more loss in ``after`` than in ``before``, over the same documents."""
        changes = {}
        for source, (first, end) in self.sources.items():
            change = ratio(after.nll[first:end], before.nll[first:end])
            changes[source] = replace(change, value=change.value - 1)
        for source, found in changes.items():
            first, end = self.sources[source]
            yield self._record(
                found.interval,
                found,
                model=model,
                task=f"change/{self.kind}/{source}",
                metric="change",
                n=int(after.count[first:end].sum()),
                language=self.languages[source],
            )
        yield from self.sum_up(changes, before, after, model=model)

    def sum_up(self, changes: dict[str, Estimate], before: Sums, after: Sums, *, model: str) -> Iterator[Score]:
        """``change/KIND_mean``: the mean of the changes, which gives every source the same weight."""
        mean, tokens = mean_of(list(changes.values())), int(after.count.sum())
        task = f"change/{self.kind}_mean"
        yield self._record(mean.interval, mean, model=model, task=task, metric="change", n=tokens, language=None)

    def _record(
        self, interval: Interval, found: Estimate, *, model: str, task: str, metric: str, n: int, language: str | None
    ) -> Score:
        return Score(model, task, metric, self.context_tokens, None, language, n, *interval, found.samples)
