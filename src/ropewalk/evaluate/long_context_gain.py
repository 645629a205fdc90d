"""The gain from context during training: the loss of long documents' last tokens, with full and truncated context.

The two readings are those that score documents (length_gain.py). They run on held-out documents and on their last
tokens only, so they are cheap enough to be repeated often.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from ropewalk.corpus.tokens.corpus_folder import Corpus
from ropewalk.evaluate.held_out import draw_long
from ropewalk.evaluate.items import Item, Sums
from ropewalk.evaluate.length_gain import LongText, make_items


@dataclass(frozen=True)
class ContextGain:
    """Documents of equal length, of which the last ``truncated_tokens`` count."""

    documents: list[Int64[np.ndarray, "context"]]
    truncated_tokens: int

    @property
    def items(self) -> list[Item]:
        texts = [LongText("", "", tokens) for tokens in self.documents]
        return make_items(texts, truncated_tokens=self.truncated_tokens, last_tokens=self.truncated_tokens)

    @property
    def groups(self) -> int:
        return 2 * len(self.documents)

    def tell(self, sums: Sums) -> Iterator[tuple[str, float, str]]:
        """``full`` and ``truncated`` in nats per token, and their difference: negative where far context helps."""
        full, truncated = (float(sums.nll[half::2].sum() / sums.count[half::2].sum()) for half in (0, 1))
        yield "full", full, "nats per token"
        yield "truncated", truncated, "nats per token"
        yield "full-truncated", full - truncated, "nats per token"


def plan_context_gain(
    corpus: Corpus, *, context_tokens: int, truncated_tokens: int, documents: int, seed: int
) -> ContextGain | None:
    """Up to ``documents`` held-out documents of ``context_tokens``; None without any, or where no token is far."""
    if context_tokens < 2 * truncated_tokens:
        return None
    drawn = draw_long(corpus, context_tokens=context_tokens, documents=documents, seed=seed)
    return ContextGain(drawn, truncated_tokens) if drawn else None
