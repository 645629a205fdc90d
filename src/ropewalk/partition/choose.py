"""Rows, heads, or both: how a batch is shared, chosen by what each way sends and how evenly it works.

Cutting rows sends keys, and only those that are read across a cut: little for packs of short documents, everything for
one long document. Cutting heads sends queries and outputs too, but never more than a rank's own rows, however many
ranks there are, and is always even. So which is cheaper changes with each batch, and is asked for each.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int32

from ropewalk.core.error import UserError
from ropewalk.partition.cost import Heads, Price, price_of, price_pieces
from ropewalk.partition.ulysses import AnyPartition, HeadPartition, partition_rows_and_heads
from ropewalk.shape.shared_heads import count_shared_heads

_CLEARLY = 0.98
"""Heads are cut where that is cheaper by this factor: a tie goes to rows, which need no equal heads."""


@dataclass(frozen=True, slots=True)
class Sharing:
    """What a model and a recipe allow. ``head_ranks`` None leaves it open how many ranks share heads."""

    heads: Heads
    price: Price
    layout: str = "auto"
    exchange: str = "auto"
    head_ranks: int | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """A partition, and why it is this one: each way that was looked at with its cost, in pairs of a rank."""

    partition: AnyPartition
    costs: dict[int, float]
    """By the number of ranks that share heads; 1 is rows alone."""

    def explain(self) -> str:
        """The choice in a line, beside rows alone and the best other way of sharing heads."""
        chosen = self.partition.head_ranks if isinstance(self.partition, HeadPartition) else 1
        others = sorted((each for each in self.costs if each != chosen), key=lambda each: (each > 1, self.costs[each]))
        told = [
            f"{_name(each)} would cost {self.costs[each] / self.costs[chosen]:.2f} times as much" for each in others
        ]
        return "; ".join([self.partition.describe(), *told[: 1 + (chosen > 1)]])


def make_sharing(
    heads: Heads,
    *,
    device: str,
    element_bytes: int,
    layout: str = "auto",
    exchange: str = "auto",
    head_ranks: int | None = None,
) -> Sharing:
    """For a model's heads on a kind of device, ``cpu`` or ``cuda``."""
    return Sharing(heads, price_of(heads, device=device, element_bytes=element_bytes), layout, exchange, head_ranks)


def choose_partition(document: Int32[np.ndarray, "rows context"], *, ranks: int, sharing: Sharing) -> Choice:
    """The cheapest partition that ``sharing`` allows; see ``partition_rows``.

    Raises UserError where ranks make no teams of a size that was asked for, or heads cannot be split over them.
    """
    costs, found = {}, {}
    for members in _list_teams(ranks, sharing):
        partition = partition_rows_and_heads(
            document,
            ranks=ranks,
            head_ranks=members,
            layout=sharing.layout,
            exchange=sharing.exchange,
            price=sharing.price,
        )
        costs[members], found[members] = _price(partition, sharing), partition
        if members == 1 and costs[1] * _CLEARLY <= _least(partition):
            break
    best = min(costs, key=lambda members: costs[members] * (_CLEARLY if members == 1 else 1))
    return Choice(found[best], costs)


def _list_teams(ranks: int, sharing: Sharing) -> list[int]:
    heads, kv_heads, _ = sharing.heads
    if sharing.head_ranks is not None:
        count_shared_heads(heads, kv_heads, sharing.head_ranks)
        return [sharing.head_ranks]
    if sharing.exchange != "auto":
        return [1]  # an exchange of rows was asked for
    return [members for members in range(1, ranks + 1) if ranks % members == 0 and _splits(sharing.heads, members)]


def _splits(heads: Heads, members: int) -> bool:
    try:
        count_shared_heads(heads.heads, heads.kv_heads, members)
    except UserError:
        return False
    return True


def _price(partition: AnyPartition, sharing: Sharing) -> float:
    """What the slowest rank computes and waits for."""
    price, by_rows, members = sharing.price, partition, 1
    if isinstance(partition, HeadPartition):
        by_rows, members = partition.by_rows, partition.head_ranks
    assert not isinstance(by_rows, HeadPartition)
    rows, _ = price_pieces(by_rows.pieces, by_rows.ranks, window=None, price=price, exchange=by_rows.exchange)
    if members == 1:
        return rows
    kept = count_shared_heads(sharing.heads.heads, sharing.heads.kv_heads, members)
    swapped = partition.local_tokens * (members - 1) / members
    return rows / members + swapped * price.swap_pairs(kept) + 4 * price.message_pairs


def _least(partition: AnyPartition) -> float:
    """No way of sharing costs less than its even part of the work."""
    return float(partition.pairs.mean())


def _name(head_ranks: int) -> str:
    return "rows alone" if head_ranks == 1 else f"heads over {head_ranks} ranks"
