"""Loss on held-out text at the base's own context, by source: the cost of the longer context.

Base and extended model read the same segments, so their change is a ratio of two sums over the same documents. Its
interval is that of the pairs: much narrower than those of the two losses.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int64

from ropewalk.core.record import Score
from ropewalk.corpus.tokens.corpus_folder import Corpus
from ropewalk.evaluate.held_out import draw_short, text_sources
from ropewalk.evaluate.items import Item, Sums
from ropewalk.evaluate.score import Estimate, mean_of, ratio

Piece = tuple[int, Int64[np.ndarray, "_"]]


@dataclass(frozen=True)
class ShortLoss:
    """Segments of documents, each with its document's number; numbers continue from source to source."""

    pieces: list[Piece]
    sources: dict[str, tuple[int, int]]
    """The half-open range of each source's documents."""
    languages: dict[str, str]
    context_tokens: int

    name = "short context"

    @property
    def items(self) -> list[Item]:
        return [Item(tokens, np.full(len(tokens), document)) for document, tokens in self.pieces]

    @property
    def groups(self) -> int:
        return max(end for _, end in self.sources.values())

    def score(self, sums: Sums, *, model: str) -> Iterator[Score]:
        """``short/SOURCE``: nats per token."""
        for source, (first, end) in self.sources.items():
            found = ratio(sums.nll[first:end], sums.count[first:end])
            language, tokens = self.languages[source], int(sums.count[first:end].sum())
            yield self._record(found, model=model, task=f"short/{source}", metric="nats", n=tokens, language=language)

    def score_change(self, before: Sums, after: Sums, *, model: str) -> Iterator[Score]:
        """``change/short/SOURCE``: 0.01 means 1 % more loss in ``after``; ``change/short_mean`` is the mean of all.

        The change is relative to ``before``. The mean gives every source the same weight.
        """
        changes = []
        for source, (first, end) in self.sources.items():
            found = ratio(after.nll[first:end], before.nll[first:end])
            changes.append(replace(found, value=found.value - 1))
            language, tokens = self.languages[source], int(after.count[first:end].sum())
            task = f"change/short/{source}"
            yield self._record(changes[-1], model=model, task=task, metric="change", n=tokens, language=language)
        tokens = int(after.count.sum())
        mean = mean_of(changes)
        yield self._record(mean, model=model, task="change/short_mean", metric="change", n=tokens, language=None)

    def _record(self, found: Estimate, *, model: str, task: str, metric: str, n: int, language: str | None) -> Score:
        return Score(model, task, metric, self.context_tokens, None, language, n, *found.interval, found.samples)


def plan_short_loss(corpus: Corpus, *, base_tokens: int, tokens: int, seed: int) -> ShortLoss | None:
    """``tokens`` held-out tokens of each source of text, or fewer where it has fewer; None without any text."""
    pieces: list[Piece] = []
    sources: dict[str, tuple[int, int]] = {}
    first = 0
    for source in text_sources(corpus):
        drawn = list(draw_short(corpus, source, context_tokens=base_tokens, tokens=tokens, seed=seed))
        if drawn:
            pieces += [(first + document, piece) for document, piece in drawn]
            sources[source] = first, first + max(document for document, _ in drawn) + 1
            first = sources[source][1]
    languages = {source: corpus.facts(source).language for source in sources}
    return ShortLoss(pieces, sources, languages, base_tokens) if sources else None
