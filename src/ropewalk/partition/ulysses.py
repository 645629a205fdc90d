"""Rows cut over some ranks, heads over others: the two-dimensional partition, and with one row rank plain Ulysses.

Ranks stand in teams of ``head_ranks`` neighbours. A team shares one rank's rows of a partition over teams: outside
attention each member holds an equal slice of them, inside it has all of them for its part of the heads (Jacobs et al.,
2309.14509). The surprise is the price: a team swaps queries and outputs too, but never more than its own rows.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Int32, Int64

from ropewalk.core.error import UserError
from ropewalk.partition.cost import PRICE, Price
from ropewalk.partition.partition import Partition, partition_rows


@dataclass(frozen=True, eq=False)
class HeadPartition:
    """``by_rows`` is cut over teams, each of ``head_ranks`` ranks; rank = team x head_ranks + member."""

    by_rows: Partition
    head_ranks: int

    @property
    def ranks(self) -> int:
        return self.by_rows.ranks * self.head_ranks

    @property
    def tokens(self) -> int:
        return self.by_rows.tokens

    @property
    def local_tokens(self) -> int:
        return self.tokens // self.ranks

    @property
    def window(self) -> int | None:
        return self.by_rows.window

    def with_window(self, window: int | None) -> "HeadPartition":
        """The same tokens on the same ranks under another window; see Partition."""
        changed = self.by_rows.with_window(window)
        return self if changed is self.by_rows else HeadPartition(changed, self.head_ranks)

    def owned(self, rank: int) -> Int64[np.ndarray, "local"]:
        """Packed indices of the rank's tokens, ascending: its local order."""
        return self._slice(rank, self.by_rows.owned(rank // self.head_ranks))

    def document_tokens(self, rank: int) -> Int64[np.ndarray, "local"]:
        """How long the document of each of the rank's tokens is; 0 for padding."""
        return self._slice(rank, self.by_rows.document_tokens(rank // self.head_ranks))

    @cached_property
    def pairs(self) -> Int64[np.ndarray, "ranks"]:
        """(query, key) pairs of each rank, for one head: its team's, of which it computes only its heads."""
        return np.repeat(self.by_rows.pairs // self.head_ranks, self.head_ranks)

    @property
    def balance(self) -> float:
        """Largest work of a rank over the mean; members of a team do the same work."""
        return self.by_rows.balance

    def describe(self) -> str:
        """The cut in a line: heads within teams, and the teams' rows."""
        teams = f"; teams: {self.by_rows.describe()}" if self.by_rows.ranks > 1 else ""
        return f"heads over {self.head_ranks} ranks{teams}"

    def _slice(self, rank: int, of_team: np.ndarray) -> np.ndarray:
        member = rank % self.head_ranks
        return of_team[member * self.local_tokens : (member + 1) * self.local_tokens]


AnyPartition = Partition | HeadPartition


def partition_rows_and_heads(
    document: Int32[np.ndarray, "rows context"],
    *,
    ranks: int,
    head_ranks: int = 1,
    layout: str = "auto",
    exchange: str = "auto",
    price: Price = PRICE,
) -> AnyPartition:
    """Cut packed rows over ``ranks / head_ranks`` teams, and heads over each team's ranks; see ``partition_rows``.

    Raises UserError where the ranks make no teams of that size.
    """
    if ranks % head_ranks:
        raise UserError(
            "context ranks make no equal teams",
            where="parallel.head_ranks",
            why=f"{ranks} context ranks are no multiple of {head_ranks}",
            fix="choose a divisor of parallel.context",
        )
    by_rows = partition_rows(document, ranks=ranks // head_ranks, layout=layout, exchange=exchange, price=price)
    if by_rows.tokens % ranks:
        raise UserError(
            "rows cannot be cut into equal shares",
            where="parallel.context",
            why=f"{by_rows.tokens} tokens over {ranks} context ranks",
            fix="choose a context length that is a multiple of the context ranks",
        )
    return by_rows if head_ranks == 1 else HeadPartition(by_rows, head_ranks)
