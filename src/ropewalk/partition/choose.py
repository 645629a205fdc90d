"""Choose for each batch whether tokens, heads or both are cut over ranks, by traffic and balance.

Cutting tokens sends only keys that are read across a cut: few for packs of short documents, all for one long
document. Cutting heads sends queries and outputs too, but never more than a rank's own tokens, for any number of
ranks, and it is always balanced. So the cheaper way changes with each batch. Recurrent layers need all heads of a
token, so a model that has some cuts tokens; there the layout is compared with contiguous, which cuts least.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int32

from ropewalk.core.error import UserError
from ropewalk.core.quantity import format_bytes, format_count
from ropewalk.partition.cost import Heads, Price, price_of, price_segments
from ropewalk.partition.partition import Partition, partition_tokens
from ropewalk.partition.recurrent_cost import RecurrentStates, SummaryPrice, count_summaries
from ropewalk.partition.ulysses import AnyPartition, UlyssesPartition, partition_tokens_and_heads
from ropewalk.shape.shared_heads import count_shared_heads

_CLEARLY = 0.98
"""Heads are cut where that is cheaper by this factor: a tie goes to tokens, which need no equal heads."""


@dataclass(frozen=True, slots=True)
class Sharing:
    """The cuts that a model and a recipe allow. ``ulysses_degree`` None leaves the number of ranks that share heads
    open.
    """

    heads: Heads
    price: Price
    layout: str = "auto"
    exchange: str = "auto"
    ulysses_degree: int | None = None


@dataclass(frozen=True, slots=True)
class PartitionChoice:
    """A partition, and why it is this one: each way that was looked at with its cost, in pairs of a rank."""

    partition: AnyPartition
    costs: dict[int, float]
    """By the number of ranks that share heads; 1 is tokens alone."""
    document: Int32[np.ndarray, "sequences context"]
    sharing: Sharing

    def explain(self) -> str:
        """The choice in a line, beside tokens alone and the best other way of sharing heads.

        Where there are recurrent layers: with what they exchange, beside the layout that cuts least.
        """
        chosen = self.partition.ulysses_degree if isinstance(self.partition, UlyssesPartition) else 1
        others = sorted((each for each in self.costs if each != chosen), key=lambda each: (each > 1, self.costs[each]))
        told = [
            f"{_name(each)} would cost {self.costs[each] / self.costs[chosen]:.2f} times as much" for each in others
        ]
        return "; ".join([self.partition.describe(), *told[: 1 + (chosen > 1)], *self._explain_layout()])

    def _explain_layout(self) -> list[str]:
        recurrent, chosen = self.sharing.price.recurrent, self.partition
        if recurrent is None or isinstance(chosen, UlyssesPartition) or chosen.ranks == 1:
            return []
        layout = "balanced" if chosen.layout == "contiguous" else "contiguous"
        other = partition_tokens(
            self.document, ranks=chosen.ranks, layout=layout, exchange=chosen.exchange, price=self.sharing.price
        )
        ratio = _price(other, self.sharing) / _price(chosen, self.sharing)
        return [
            f"recurrent layers: {_describe_summaries(chosen, recurrent)}",
            f"{layout} would cost {ratio:.2f} times as much: work max/mean {other.balance:.2f}, "
            + _describe_summaries(other, recurrent),
        ]


def make_sharing(
    heads: Heads,
    *,
    device: str,
    element_bytes: int,
    layout: str = "auto",
    exchange: str = "auto",
    ulysses_degree: int | None = None,
    recurrent: RecurrentStates | None = None,
) -> Sharing:
    """For a model's heads on a kind of device, ``cpu`` or ``cuda``, and its ``recurrent`` layers if it has some."""
    price = price_of(heads, device=device, element_bytes=element_bytes, recurrent=recurrent)
    return Sharing(heads, price, layout, exchange, ulysses_degree)


def choose_partition(
    document: Int32[np.ndarray, "sequences context"], *, ranks: int, sharing: Sharing
) -> PartitionChoice:
    """The cheapest partition that ``sharing`` allows; see ``partition_tokens``.

    Raises UserError where ranks make no groups of the degree that was asked for, or heads cannot be split over them.
    """
    costs, found = {}, {}
    asked = sharing.ulysses_degree
    if asked is not None:
        count_shared_heads(sharing.heads.heads, sharing.heads.kv_heads, asked, context_ranks=ranks)
        assert asked == 1 or sharing.price.recurrent is None, "the state of a head needs all tokens"
    for ulysses_degree in [asked] if asked is not None else list_degrees(ranks, sharing):
        partition = partition_tokens_and_heads(
            document,
            ranks=ranks,
            ulysses_degree=ulysses_degree,
            layout=sharing.layout,
            exchange=sharing.exchange,
            price=sharing.price,
        )
        costs[ulysses_degree], found[ulysses_degree] = _price(partition, sharing), partition
        if ulysses_degree == 1 and costs[1] * _CLEARLY <= _least(partition):
            break
    best = min(costs, key=lambda ulysses_degree: costs[ulysses_degree] * (_CLEARLY if ulysses_degree == 1 else 1))
    return PartitionChoice(found[best], costs, document, sharing)


def list_degrees(ranks: int, sharing: Sharing) -> list[int]:
    """The numbers of ranks that may share heads among ``ranks`` context ranks; 1 is tokens alone.

    Empty where the degree that ``sharing`` asks for makes no groups of the ranks, or of the heads.
    """
    asked = sharing.ulysses_degree
    if asked is None and (sharing.exchange != "auto" or sharing.price.recurrent is not None):
        return [1]  # an exchange of keys was asked for, or heads cannot be cut
    degrees = range(1, ranks + 1) if asked is None else (asked,)
    return [degree for degree in degrees if ranks % degree == 0 and _splits(sharing.heads, degree)]


def _splits(heads: Heads, ulysses_degree: int) -> bool:
    try:
        count_shared_heads(heads.heads, heads.kv_heads, ulysses_degree)
    except UserError:
        return False
    return True


def _price(partition: AnyPartition, sharing: Sharing) -> float:
    """Work plus exposed traffic of the slowest rank, in pairs."""
    price, token_partition, ulysses_degree = sharing.price, partition, 1
    if isinstance(partition, UlyssesPartition):
        token_partition, ulysses_degree = partition.token_partition, partition.ulysses_degree
    assert not isinstance(token_partition, UlyssesPartition)
    token_pairs, _ = price_segments(
        token_partition.segments, token_partition.ranks, window=None, price=price, exchange=token_partition.exchange
    )
    if ulysses_degree == 1:
        return token_pairs
    kept = count_shared_heads(sharing.heads.heads, sharing.heads.kv_heads, ulysses_degree)
    sent = partition.local_tokens * (ulysses_degree - 1) / ulysses_degree
    return token_pairs / ulysses_degree + sent * price.all_to_all_pairs(kept) + 4 * price.message_pairs


def _least(partition: AnyPartition) -> float:
    """No way of sharing costs less than its even part of the work."""
    return float(partition.pairs.mean())


def _describe_summaries(partition: Partition, price: SummaryPrice) -> str:
    counts = count_summaries(partition.segments, partition.ranks)
    most = int(counts.received_bytes(price.layers).max())
    return f"{format_count(counts.published, 'summary')} to read, at most {format_bytes(most)} a layer to a rank"


def _name(ulysses_degree: int) -> str:
    return "tokens alone" if ulysses_degree == 1 else f"Ulysses over {ulysses_degree} ranks"
