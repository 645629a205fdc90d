"""Loss on text outside the mix: it shows what the model forgot.

Held-out text of the mix improves with training, so it hides forgetting. Here base and trained model read documents that
no source of the mix has, at the base's own context, in pairs. The worst source decides. It is chosen among several, so
its interval is that of all of them together (Bonferroni). A text on which the base is worse than a uniform guess is
shown, but it decides nothing: what was never known cannot be forgotten.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from ropewalk.core.error import UserError
from ropewalk.core.progress import say
from ropewalk.core.record import Document, Score
from ropewalk.corpus.prepare.foreign_documents import read_foreign, refuse_known_documents
from ropewalk.corpus.tokens.corpus_folder import Corpus
from ropewalk.corpus.tokens.tokenizer import Tokenizer
from ropewalk.evaluate.items import Item, Sums
from ropewalk.evaluate.loss_by_source import LossBySource
from ropewalk.evaluate.score import Estimate, largest_of
from ropewalk.parallel.collective import rank_and_ranks
from ropewalk.recipe.foreign_text import ForeignText

_FEWEST_DOCUMENTS = 8
"""With fewer documents than this, their segments are the sample: an interval over one or two books says nothing."""


@dataclass(frozen=True)
class ForeignLoss(LossBySource):
    """Text that the mix does not have."""

    vocabulary: int
    """A loss above that of a uniform guess among so many tokens means that the base cannot read a text at all."""

    name = "text outside the mix"
    kind = "foreign"

    def sum_up(self, changes: dict[str, Estimate], before: Sums, after: Sums, *, model: str) -> Iterator[Score]:
        """The mean of the changes, and their largest, ``change/foreign_worst``, of the texts that the base can read."""
        for source in [each for each in changes if not self._is_read(each, before)]:
            changes = {name: change for name, change in changes.items() if name != source}
            if not rank_and_ranks()[0]:
                say(f"foreign text {source} decides nothing: the base is worse on it than a uniform guess")
        if not changes:
            return
        yield from super().sum_up(changes, before, after, model=model)
        worst = max(changes, key=lambda source: changes[source].value)
        first, end = self.sources[worst]
        yield self._record(
            largest_of(list(changes.values())),
            changes[worst],
            model=model,
            task="change/foreign_worst",
            metric="change",
            n=int(after.count[first:end].sum()),
            language=self.languages[worst],
        )

    def _is_read(self, source: str, before: Sums) -> bool:
        first, end = self.sources[source]
        return float(before.nll[first:end].sum() / before.count[first:end].sum()) <= math.log(self.vocabulary)


def plan_foreign_loss(
    foreign: Sequence[ForeignText], tokenizer: Tokenizer, *, corpus: Corpus | None, context_tokens: int, tokens: int
) -> ForeignLoss | None:
    """About ``tokens`` tokens of each text, in segments of ``context_tokens``; None where none is asked for.

    Raises UserError where a text cannot be read, is shorter than two tokens, or is in ``corpus``.
    """
    items: list[Item] = []
    sources: dict[str, tuple[int, int]] = {}
    languages: dict[str, str] = {}
    first = 0
    for text in foreign:
        where = text.embedded or text.source
        documents = read_foreign(where, context_tokens=context_tokens, tokens=tokens)
        if corpus is not None:
            refuse_known_documents(text.name, documents, corpus)
        segments = _cut(documents, tokenizer, context_tokens=context_tokens, tokens=tokens)
        if not segments:
            raise _too_short(text)
        few = len({document for document, _ in segments}) < _FEWEST_DOCUMENTS
        if few and not rank_and_ranks()[0]:
            say(f"foreign text {text.name} has fewer than {_FEWEST_DOCUMENTS} documents: its segments are the sample")
        numbers = [number if few else document for number, (document, _) in enumerate(segments)]
        items += [Item(piece, np.full(len(piece), first + n)) for n, (_, piece) in zip(numbers, segments, strict=True)]
        sources[text.name] = first, first + max(numbers) + 1
        first = sources[text.name][1]
        spoken = [document.language for document in documents]
        languages[text.name] = max(spoken, key=spoken.count)
    return ForeignLoss(items, sources, languages, context_tokens, tokenizer.vocabulary) if sources else None


def _cut(
    documents: Sequence[Document], tokenizer: Tokenizer, *, context_tokens: int, tokens: int
) -> list[tuple[int, Int64[np.ndarray, "segment"]]]:
    """(document, segment) until ``tokens`` are there; the first segments of all documents come before any second."""
    texts = [encoded.astype(np.int64) for encoded, _ in tokenizer.encode_documents(documents)]
    found: list[tuple[int, Int64[np.ndarray, segment]]] = []
    drawn = 0
    for start in range(0, max(map(len, texts), default=0), context_tokens):
        for number, text in enumerate(texts):
            if len(text) > start + 1:  # a single token has no label
                if drawn >= tokens:
                    return found
                found.append((number, text[start : start + context_tokens]))
                drawn += len(found[-1][1])
    return found


def _too_short(text: ForeignText) -> UserError:
    return UserError(
        f"foreign text {text.name} is empty",
        where=str(text.path),
        why="it has no document of two tokens",
        fix="name files with text, or remove it from evaluate.foreign",
    )
