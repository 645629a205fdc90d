"""Choose for each batch whether tokens, heads or both are cut over ranks, by traffic and balance.

Cutting tokens sends only keys that are read across a cut: few for packs of short documents, all for one long
document. Cutting heads sends queries and outputs too, but never more than a rank's own tokens, for any number of
ranks, and it is always balanced. So the cheaper way changes with each batch. Recurrent layers need all heads of a
token, so a model that has some cuts tokens; there the layout is compared with contiguous, which cuts least.
"""

from dataclasses import dataclass, replace

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

    Where the exchange is open, a rank holds keys of at most ``held_tokens`` tokens of others at once, counted with all
    key heads; None is any number. ``gathers`` says that the model's kernel wants all keys in one block, so a ring holds
    no fewer.
    """

    heads: Heads
    price: Price
    layout: str = "auto"
    exchange: str = "auto"
    ulysses_degree: int | None = None
    held_tokens: float | None = None
    gathers: bool = False

    def has_room(self, tokens: float) -> bool:
        """Whether a rank may hold the keys of ``tokens`` tokens of others."""
        return self.held_tokens is None or tokens <= self.held_tokens


@dataclass(frozen=True, slots=True)
class PartitionChoice:
    """A partition, and why it is this one: each way that was looked at with its cost, in pairs of a rank."""

    partition: AnyPartition
    costs: dict[int, float]
    """By the number of ranks that share heads; 1 is tokens alone."""
    document: Int32[np.ndarray, "sequences context"]
    sharing: Sharing

    def explain(self, *, with_memory: bool = True) -> str:
        """The choice in a line, beside tokens alone and the best other way of sharing heads.

        ``with_memory``: also beside the way for which memory has no room.

        Where there are recurrent layers: with what they exchange, beside the layout that cuts least.
        """
        chosen = self.partition.ulysses_degree if isinstance(self.partition, UlyssesPartition) else 1
        others = sorted((each for each in self.costs if each != chosen), key=lambda each: (each > 1, self.costs[each]))
        told = [
            f"{_name(each)} would cost {self.costs[each] / self.costs[chosen]:.2f} times as much" for each in others
        ]
        told = [*told[: 1 + (chosen > 1)], *(self._explain_memory() if with_memory else []), *self._explain_layout()]
        return "; ".join([self.partition.describe(), *told])

    def _explain_memory(self) -> list[str]:
        """The way that would be cheaper, if memory has no room for its keys."""
        if self.sharing.gathers and self.sharing.exchange == "ring":
            return ["FlexAttention, which this model needs, takes all needed keys at once: a ring has no effect"]
        if self.sharing.held_tokens is None:
            return []
        free = replace(self.sharing, held_tokens=None)
        other = choose_partition(self.document, ranks=self.partition.ranks, sharing=free).partition
        held = count_held_tokens(other, free)
        if self.sharing.has_room(held):
            return []
        return [
            f"{_name_way(other)} would hold the keys of {held:,.0f} tokens of other ranks at once, and memory has room "
            f"for {self.sharing.held_tokens:,.0f}"
        ]

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
    gathers: bool = False,
) -> Sharing:
    """For a model's heads on a kind of device, ``cpu`` or ``cuda``, and its ``recurrent`` layers if it has some.

    ``gathers`` is as in ``Sharing``: such a kernel waits for all keys, so it hides no message.
    """
    price = price_of(heads, device=device, element_bytes=element_bytes, recurrent=recurrent)
    price = replace(price, overlaps=price.overlaps and not gathers)
    return Sharing(heads, price, layout, exchange, ulysses_degree, gathers=gathers)


def choose_partition(
    document: Int32[np.ndarray, "sequences context"], *, ranks: int, sharing: Sharing
) -> PartitionChoice:
    """The cheapest partition that ``sharing`` allows; see ``partition_tokens``.

    Of partitions that would hold more keys than memory has room for, the one that holds the fewest, where there is no
    other.

    Raises UserError where ranks make no groups of the degree that was asked for, or heads cannot be split over them.
    """
    costs, found, held = {}, {}, {}
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
        partition = _hold_less(partition, sharing)
        costs[ulysses_degree], found[ulysses_degree] = _price(partition, sharing), partition
        held[ulysses_degree] = count_held_tokens(partition, sharing)
        if ulysses_degree == 1 and costs[1] * _CLEARLY <= _least(partition) and sharing.has_room(held[1]):
            break
    fitting = [each for each in costs if sharing.has_room(held[each])] or [min(held, key=held.__getitem__)]
    best = min(fitting, key=lambda ulysses_degree: costs[ulysses_degree] * (_CLEARLY if ulysses_degree == 1 else 1))
    return PartitionChoice(found[best], costs, document, sharing)


def count_held_tokens(partition: AnyPartition, sharing: Sharing) -> float:
    """The tokens of others whose keys a rank holds at once, the most of any rank: a ring's block, or all it receives.

    They are counted with all key heads: a rank of a Ulysses group has a part of the heads, copies included.
    """
    degree = partition.ulysses_degree if isinstance(partition, UlyssesPartition) else 1
    tokens = partition.token_partition if isinstance(partition, UlyssesPartition) else partition
    if not tokens.exchanges:
        return 0.0
    passes = tokens.exchange == "ring" and not sharing.gathers
    held = tokens.local_tokens if passes else int(tokens.traffic_tokens.sum(1).max())
    return share_keys(sharing, degree) * held


def share_keys(sharing: Sharing, ulysses_degree: int) -> float:
    """The part of the key heads that a rank of a Ulysses group has, copies included."""
    kept = count_shared_heads(sharing.heads.heads, sharing.heads.kv_heads, ulysses_degree)
    return kept / ulysses_degree / sharing.heads.kv_heads


def _hold_less(partition: AnyPartition, sharing: Sharing) -> AnyPartition:
    """``partition`` with a ring, where the exchange is open and memory has no room for the keys that it brings."""
    if sharing.exchange != "auto" or sharing.has_room(count_held_tokens(partition, sharing)):
        return partition
    if isinstance(partition, UlyssesPartition):
        tokens = replace(partition.token_partition, exchange="ring")
        ring: AnyPartition = UlyssesPartition(tokens, partition.ulysses_degree)
    else:
        ring = replace(partition, exchange="ring")
    return ring if count_held_tokens(ring, sharing) < count_held_tokens(partition, sharing) else partition


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


def _name_way(partition: AnyPartition) -> str:
    if isinstance(partition, UlyssesPartition):
        return _name(partition.ulysses_degree)
    return f"{partition.exchange} over {format_count(partition.ranks, 'rank')}"
