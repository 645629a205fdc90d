"""The loss of the same tokens by the context before them, and the law that it follows (context_law.py).

Loss by position compares different tokens, and later tokens of a document are often easier. Here the last quarter of
each long document is read seven times: in windows of the whole length, of half of it, and so on. Of a window the last
quarter counts, so each scored token has three quarters of the window or more before it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from ropewalk.core.progress import say
from ropewalk.core.record import Score
from ropewalk.corpus.tokens.corpus_folder import Corpus
from ropewalk.evaluate.context_law import fit_context_law
from ropewalk.evaluate.held_out import draw_long
from ropewalk.evaluate.items import Item, Sums
from ropewalk.evaluate.length_gain import LongText, make_items
from ropewalk.evaluate.score import Interval, ratio
from ropewalk.parallel.collective import rank_and_ranks

TASK = "context_law/"
_CONTEXTS, _FEWEST, _SHORTEST_TOKENS = 7, 5, 8


@dataclass(frozen=True)
class LossByContext:
    """Documents of equal length, and the ``contexts`` in tokens that their last quarter is read at, longest first."""

    documents: list[Int64[np.ndarray, "context"]]
    contexts: list[int]

    name = "loss by context"

    @property
    def items(self) -> list[Item]:
        return [item for number in range(len(self.contexts)) for item in self._read(number)]

    def _read(self, number: int) -> Iterator[Item]:
        """Windows of one context; the group is the document's number, counted on from context to context."""
        texts = [LongText("", "", tokens) for tokens in self.documents]
        longest, tokens = self.contexts[0], self.contexts[number]
        first = number * len(texts)
        # Of each text the whole (even groups) comes beside its windows (odd groups).
        wanted = 0 if tokens == longest else 1
        cut = tokens if wanted else longest // 4
        for item in make_items(texts, truncated_tokens=cut, last_tokens=longest // 4):
            if item.group.max() % 2 == wanted:
                yield Item(item.tokens, np.where(item.group >= 0, first + item.group // 2, -1))

    @property
    def groups(self) -> int:
        return len(self.contexts) * len(self.documents)

    def score(self, sums: Sums, *, model: str) -> Iterator[Score]:
        """``context_law/loss`` at each context, ``context_law/held_out_error``, and the law where it predicts.

        The law's ``alpha`` (tokens), ``beta`` and ``gamma`` (nats) are left out where it misses the longest context.
        """
        nll, count = (values.reshape(len(self.contexts), -1) for values in (sums.nll, sums.count))
        assert (count == count[0]).all(), "every context reads the same tokens"
        n, samples = int(count[0].sum()), len(self.documents)
        for tokens, total in zip(self.contexts, nll, strict=True):
            found = ratio(total, count[0])
            yield Score(model, f"{TASK}loss", "nats", tokens, None, None, n, *found.interval, samples)
        yield from self._fit(nll / count, model=model, n=n)

    def _fit(self, losses: Float64[np.ndarray, "contexts documents"], *, model: str, n: int) -> Iterator[Score]:
        law = fit_context_law(self.contexts, losses.mean(axis=1).tolist(), documents=losses)
        if not rank_and_ranks()[0]:
            say(f"{model}: {law.text}")

        def record(task: str, metric: str, interval: Interval) -> Score:
            return Score(model, TASK + task, metric, self.contexts[0], None, None, n, *interval, len(self.documents))

        error = law.held_out.error
        yield record("held_out_error", "share", (error, error, error))
        if law.held_out.is_accepted:
            yield record("alpha", "tokens", law.alpha)
            yield record("beta", "exponent", law.beta)
            yield record("gamma", "nats", law.gamma)


def plan_loss_by_context(
    corpus: Corpus, *, context_tokens: int, documents: int, seed: int, asked: bool
) -> LossByContext | None:
    """Up to ``documents`` held-out documents of ``context_tokens``, at seven contexts down to a 64th of it.

    None where it is not ``asked`` for, where no document is long enough, or where the contexts are too short for five.
    """
    if not asked:
        return None
    halves = [context_tokens >> power for power in range(_CONTEXTS)]
    contexts = [tokens for tokens in halves if tokens >= _SHORTEST_TOKENS]
    drawn = draw_long(corpus, context_tokens=context_tokens, documents=documents, seed=seed)
    if len(contexts) >= _FEWEST and drawn:
        return LossByContext(drawn, contexts)
    if not rank_and_ranks()[0]:
        why = "no held-out document is so long" if not drawn else f"a law needs {_FEWEST} contexts"
        say(f"the law of loss by context is not measured at {context_tokens} tokens: {why}")
    return None
