"""Context gain: the loss of the same tokens with their whole context minus that with the base's window, by distance.

A model that reads far without using it has a gain of 0, although its loss by position may fall: later tokens of a
document are often easier. A window here always has at least the base's context before a scored token. So a model that
sees no farther than the base's context reads both alike and has no gain.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Float64, Int64

from ropewalk.core.progress import say
from ropewalk.core.record import Score
from ropewalk.corpus.tokens.corpus_folder import Corpus
from ropewalk.evaluate.held_out import draw_long_by_source
from ropewalk.evaluate.items import Item, Sums
from ropewalk.evaluate.key_tokens import find_key_tokens, score_long_perplexity
from ropewalk.evaluate.length_gain import LongText, make_items
from ropewalk.evaluate.score import difference
from ropewalk.parallel.collective import rank_and_ranks
from ropewalk.recipe.multiple import count_tokens

_MOST_TOKENS = 1 << 22
"""With more scored tokens the losses are summed in buckets, and LongPPL is left out: a loss of each takes 48 bytes."""


@dataclass(frozen=True)
class GainByDistance:
    """Documents of ``multiple`` times ``base_tokens`` tokens each, with the source of each."""

    documents: list[tuple[str, Int64[np.ndarray, "context"]]]
    base_tokens: int
    multiple: float

    name = "context gain"

    @property
    def far_tokens(self) -> int:
        """The length of each document."""
        return count_tokens(self.multiple, self.base_tokens)

    @property
    def window_tokens(self) -> int:
        """Tokens of a window: its last quarter counts, and three quarters are the base's context, rounded up."""
        return -(-self.base_tokens // 3) * 4

    @property
    def borders(self) -> list[int]:
        """The end of the first window, each doubling of the base's context with its middle, and the end."""
        doublings = [self.base_tokens << power for power in range(1, int(self.multiple).bit_length())]
        ends = {*doublings, *(end * 3 // 2 for end in doublings)}
        return [
            self.window_tokens,
            *sorted(end for end in ends if self.window_tokens < end < self.far_tokens),
            self.far_tokens,
        ]

    @property
    def items(self) -> list[Item]:
        texts = [LongText(source, "", tokens) for source, tokens in self.documents]
        return make_items(texts, truncated_tokens=self.window_tokens, borders=self._firsts)

    @property
    def _firsts(self) -> Sequence[int]:
        """The first position of each group: every token is one, unless they are too many."""
        if len(self.documents) * (self.far_tokens - self.window_tokens) > _MOST_TOKENS:
            return self.borders[:-1]
        return range(self.window_tokens, self.far_tokens)

    @property
    def groups(self) -> int:
        return len(self.documents) * 2 * len(self._firsts)

    def score(self, sums: Sums, *, model: str) -> Iterator[Score]:
        """``gain/position/FIRST-END``, ``gain/source/NAME`` and ``gain/context``: nats, below 0 where context helps."""
        nll, count = (self._by_bucket(values) for values in (sums.nll, sums.count))
        for number, (first, end) in enumerate(pairwise(self.borders)):
            one = slice(number, number + 1)
            yield self._record(nll[..., one], count[..., one], model=model, task=f"gain/position/{first}-{end}")
        sources = np.array([source for source, _ in self.documents])
        for source in dict.fromkeys(sources.tolist()):
            mine = sources == source
            yield self._record(nll[mine], count[mine], model=model, task=f"gain/source/{source}")
        yield self._record(nll, count, model=model, task="gain/context")

    def _by_bucket(self, values: Float64[np.ndarray, "groups"]) -> Float64[np.ndarray, "documents 2 buckets"]:
        firsts = np.searchsorted(np.array(self._firsts), self.borders[:-1])
        return np.add.reduceat(values.reshape(len(self.documents), 2, -1), firsts, axis=2)

    def score_key_tokens(self, found: Mapping[str, Sums]) -> Iterator[Score]:
        """LongPPL of each model by name, on the key tokens of the last one; nothing where groups are no tokens."""
        if self._firsts == self.borders[:-1]:
            if not rank_and_ranks()[0]:
                say("LongPPL is not measured: too many tokens would be scored one by one; ask for fewer documents")
            return
        losses = {name: sums.nll.reshape(len(self.documents), 2, -1) for name, sums in found.items()}
        keys = find_key_tokens(*list(losses.values())[-1].transpose(1, 0, 2))
        for name, loss in losses.items():
            yield from score_long_perplexity(loss[:, 0], keys, model=name, context_tokens=self.far_tokens)

    def _record(
        self,
        nll: Float64[np.ndarray, "documents 2 buckets"],
        count: Float64[np.ndarray, "documents 2 buckets"],
        *,
        model: str,
        task: str,
    ) -> Score:
        (whole, window), (tokens, same) = (values.sum(axis=2).T for values in (nll, count))
        found = difference((whole, tokens), (window, same))
        n = int(tokens.sum())
        return Score(model, task, "nats", self.far_tokens, None, None, n, *found.interval, found.samples)


def plan_gain_by_distance(
    corpus: Corpus, *, base_tokens: int, multiple: float, documents: int, seed: int
) -> GainByDistance | None:
    """Up to ``documents`` held-out documents; None where there are none, or where no token is far."""
    empty = GainByDistance([], base_tokens, multiple)
    if empty.far_tokens <= empty.window_tokens:
        return None
    drawn = draw_long_by_source(corpus, context_tokens=empty.far_tokens, documents=documents, seed=seed)
    return GainByDistance(drawn, base_tokens, multiple) if drawn else None
