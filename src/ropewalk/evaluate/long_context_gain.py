"""The gain from far context during training: the loss of long documents' last tokens, with and without far context.

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
class FarGain:
    """Documents of equal length, of which the last ``near_tokens`` count."""

    documents: list[Int64[np.ndarray, "context"]]
    near_tokens: int

    @property
    def items(self) -> list[Item]:
        texts = [LongText("", "", tokens) for tokens in self.documents]
        return make_items(texts, near_tokens=self.near_tokens, last_tokens=self.near_tokens)

    @property
    def groups(self) -> int:
        return 2 * len(self.documents)

    def tell(self, sums: Sums) -> Iterator[tuple[str, float, str]]:
        """``whole`` and ``near`` in nats per token, and the change by the whole context."""
        whole, near = (float(sums.nll[half::2].sum() / sums.count[half::2].sum()) for half in (0, 1))
        yield "whole", whole, "nats per token"
        yield "near", near, "nats per token"
        yield "whole-near", whole - near, "nats per token"


def plan_far_gain(
    corpus: Corpus, *, context_tokens: int, near_tokens: int, documents: int, seed: int
) -> FarGain | None:
    """Up to ``documents`` held-out documents of ``context_tokens``; None without any, or where no token is far."""
    if context_tokens < 2 * near_tokens:
        return None
    drawn = draw_long(corpus, context_tokens=context_tokens, documents=documents, seed=seed)
    return FarGain(drawn, near_tokens) if drawn else None
