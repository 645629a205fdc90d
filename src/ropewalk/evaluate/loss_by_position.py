"""Loss by position: the place in a long document from which more context no longer helps.

Every document is as long as the farthest bucket, so all buckets average over the same documents. A bucket ``1536-2048``
holds the tokens with 1536 to 2047 tokens before them. The decisive figure is the difference between the last quarter of
the longest length and the last quarter of the base's own: the loss must not rise there.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Float64, Int64

from ropewalk.core.record import Score
from ropewalk.corpus.tokens.corpus_folder import Corpus
from ropewalk.evaluate.held_out import draw_long
from ropewalk.evaluate.items import Item, Sums
from ropewalk.evaluate.score import difference, ratio
from ropewalk.recipe.multiple import count_tokens

_Ratio = tuple[Float64[np.ndarray, "documents"], Float64[np.ndarray, "documents"]]


@dataclass(frozen=True)
class PositionLoss:
    """Documents of ``multiple`` times ``base_tokens`` tokens each; a group per document and bucket."""

    documents: list[Int64[np.ndarray, "context"]]
    base_tokens: int
    multiple: float

    name = "loss by position"

    @property
    def far_tokens(self) -> int:
        """The length of each document."""
        return count_tokens(self.multiple, self.base_tokens)

    @property
    def far_first(self) -> int:
        """The first position of the last quarter; below 4/3 of the base's context all that lies beyond the base."""
        return max(self.far_tokens * 3 // 4, self.base_tokens if self.far_tokens > self.base_tokens else 0)

    @property
    def borders(self) -> list[int]:
        """Quarters of the base's length, then the half and the last quarter of each doubling: 0, 128 ... 1536, 2048.

        The last quarter of all is one bucket, also where a doubling ends in it, as 4 does of 5 times the base.
        """
        lengths = [1 << power for power in range(int(self.multiple).bit_length())]
        ends = {length * self.base_tokens * quarters // 4 for length in lengths for quarters in (3, 4)}
        ends |= {0, self.base_tokens // 4, self.base_tokens // 2}
        return sorted({end for end in ends if end < self.far_first} | {self.far_first, self.far_tokens})

    @property
    def items(self) -> list[Item]:
        buckets = len(self.borders) - 1
        bucket = np.searchsorted(self.borders, np.arange(self.far_tokens), side="right") - 1
        return [Item(tokens, bucket + number * buckets) for number, tokens in enumerate(self.documents)]

    @property
    def groups(self) -> int:
        return len(self.documents) * (len(self.borders) - 1)

    def score(self, sums: Sums, *, model: str) -> Iterator[Score]:
        """``nll/position/FIRST-END`` for each bucket; ``nll/gap`` is the last quarter minus the base's last quarter."""
        borders, far_tokens = self.borders, self.far_tokens
        nll, count = (values.reshape(len(self.documents), -1) for values in (sums.nll, sums.count))
        buckets: dict[tuple[int, int], _Ratio] = {}
        for number, (first, end) in enumerate(pairwise(borders)):
            buckets[first, end] = (nll[:, number], count[:, number])
            found = ratio(*buckets[first, end])
            task, tokens = f"nll/position/{first}-{end}", int(count[:, number].sum())
            yield Score(model, task, "nats", far_tokens, None, None, tokens, *found.interval, found.samples)
        far = buckets[self.far_first, far_tokens]
        near = buckets[self.base_tokens * 3 // 4, self.base_tokens]
        yield self._record_difference(far, near, model=model, task="nll/gap")

    def score_change(self, before: Sums, after: Sums, *, than: str, model: str) -> Iterator[Score]:
        """``change/nll/THAN``: nats in the last quarter that ``after`` has more than ``before``, the model ``than``."""
        far, its = (
            (sums.nll.reshape(len(self.documents), -1)[:, -1], sums.count.reshape(len(self.documents), -1)[:, -1])
            for sums in (after, before)
        )
        yield self._record_difference(far, its, model=model, task=f"change/nll/{than}")

    def _record_difference(self, first: _Ratio, second: _Ratio, *, model: str, task: str) -> Score:
        found, far_tokens = difference(first, second), self.far_tokens
        tokens = int(first[1].sum())
        return Score(model, task, "nats", far_tokens, None, None, tokens, *found.interval, found.samples)


def plan_position_loss(
    corpus: Corpus, *, base_tokens: int, multiple: float, documents: int, seed: int
) -> PositionLoss | None:
    """Up to ``documents`` held-out documents of ``corpus`` that are long enough; None if there are none."""
    drawn = draw_long(corpus, context_tokens=count_tokens(multiple, base_tokens), documents=documents, seed=seed)
    return PositionLoss(drawn, base_tokens, multiple) if drawn else None
