"""Retrieval heads: the heads that look at a fact when its answer is due, and how much they look at it.

A few heads copy from far context (Wu et al., 2404.15574). They are found on the base once, at its own length, where it
can retrieve. The attention that these heads put on the facts at the new length is a measure of its own: accuracy
saturates before they do. A needle is every earlier place in a prompt where an answer's tokens stand.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int64

from ropewalk.evaluate.items import Item, lay_sequence
from ropewalk.model.needle_attention import NeedleAttention, watch_needles
from ropewalk.parallel.collective import sum_over_ranks
from ropewalk.parallel.mesh import Mesh
from ropewalk.partition import local_shard
from ropewalk.partition.choose import Sharing, choose_partition

_SHARE_OF_HEADS = 0.05
"""At most so many heads retrieve in the models that were studied."""

Head = tuple[int, int]
"""(layer, head)."""


class NeedleShares:
    """The sums of the shares over all queries, filled while items are read."""

    def __init__(self) -> None:
        self._sums: dict[int, torch.Tensor] = {}
        self._queries = 0

    @contextmanager
    def watch(self, sequence: Sequence[Item], *, mesh: Mesh, sharing: Sharing) -> Iterator[None]:
        """Follow the forward of this rank's part of a sequence."""
        laid = lay_sequence(sequence, multiple=mesh.context_ranks)
        partition = choose_partition(laid.document[None], ranks=mesh.context_ranks, sharing=sharing).partition
        found = [find_needles(item) for item in sequence]
        padding = np.full(len(laid.tokens) - sum(len(item.tokens) for item in sequence), -1)
        # twice [_] + [padding] -> [sequence]
        needle, asked = (np.concatenate([*(each[place] for each in found), padding]) for place in (0, 1))
        fields = (torch.from_numpy(local_shard(partition, mesh.context_rank, f[None])) for f in (needle, asked))
        with watch_needles(NeedleAttention(*(field.to(mesh.device) for field in fields))) as watched:
            yield
        self._queries += watched.queries
        for layer, sums in watched.shares.items():
            self._sums[layer] = self._sums.get(layer, 0) + sums.cpu()

    def sum_over_ranks(self) -> None:
        """Add up the sums of all ranks. Every rank calls it."""
        layers = sorted(self._sums)
        table = sum_over_ranks(torch.stack([self._sums[layer] for layer in layers])) if layers else None
        self._queries = int(sum_over_ranks(torch.tensor(self._queries, dtype=torch.float64)))
        for number, layer in enumerate(layers):
            assert table is not None
            self._sums[layer] = table[number]

    def of_each(self) -> dict[Head, float]:
        """The mean share of each head; empty where no prompt has a needle, or where no layer can be followed."""
        if not self._queries:
            return {}
        return {
            (layer, head): float(value) / self._queries
            for layer, sums in self._sums.items()
            for head, value in enumerate(sums.tolist())
        }


@dataclass(frozen=True, slots=True)
class RetrievalHeads:
    """The heads of a base that retrieve, and the mean share that they put on the facts there."""

    heads: tuple[Head, ...]
    base_share: float

    def share(self, shares: NeedleShares) -> float:
        """The mean share of these heads."""
        found = shares.of_each()
        return sum(found[head] for head in self.heads) / len(self.heads)


def choose_heads(shares: NeedleShares) -> RetrievalHeads | None:
    """The twentieth part of all heads, at least one, that puts the largest share on the needles; None without any."""
    found = shares.of_each()
    if not found:
        return None
    order = sorted(found, key=lambda head: (-found[head], head))
    chosen = tuple(order[: max(1, round(_SHARE_OF_HEADS * len(order)))])
    return RetrievalHeads(chosen, sum(found[head] for head in chosen) / len(chosen))


def find_needles(item: Item) -> tuple[Int64[np.ndarray, "tokens"], Int64[np.ndarray, "tokens"]]:
    """For each token the needle that it belongs to, and the needle that its prediction looks for; -1 is none.

    Needles are numbered by answers. An answer that does not stand before the questions has none.
    """
    needle, asked = np.full(len(item.tokens), -1), np.full(len(item.tokens), -1)
    answers = [group for group in np.unique(item.group).tolist() if group >= 0]
    context = int(np.argmax(item.group >= 0))
    for number, group in enumerate(answers):
        places = np.flatnonzero(item.group == group)
        answer = item.tokens[places]
        if len(answer) > context:
            continue
        windows = np.lib.stride_tricks.sliding_window_view(item.tokens[:context], len(answer))
        starts = np.flatnonzero((windows == answer).all(axis=1))
        for start in starts.tolist():
            needle[start : start + len(answer)] = number
        if len(starts):
            asked[places - 1] = number
    return needle, asked
