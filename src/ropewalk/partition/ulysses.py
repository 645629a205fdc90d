"""Tokens cut over some ranks and heads over others: the two-dimensional partition. With one token rank it is plain
Ulysses.

Ranks form Ulysses groups of ``ulysses_degree`` neighbours. A group owns one rank's share of a partition over groups:
outside attention each of its ranks holds an equal slice of the tokens, inside attention each has all of the group's
tokens for its part of the heads (Jacobs et al., 2309.14509). A group exchanges queries and outputs too, but never
more than its own tokens.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Int32, Int64

from ropewalk.core.error import UserError
from ropewalk.partition.cost import PRICE, Price
from ropewalk.partition.partition import Partition, partition_tokens


@dataclass(frozen=True, eq=False)
class UlyssesPartition:
    """``token_partition`` is cut over groups of ``ulysses_degree`` ranks; rank = group x ulysses_degree + member."""

    token_partition: Partition
    ulysses_degree: int

    @property
    def ranks(self) -> int:
        return self.token_partition.ranks * self.ulysses_degree

    @property
    def tokens(self) -> int:
        return self.token_partition.tokens

    @property
    def local_tokens(self) -> int:
        return self.tokens // self.ranks

    @property
    def window(self) -> int | None:
        return self.token_partition.window

    def with_window(self, window: int | None) -> "UlyssesPartition":
        """The same tokens on the same ranks under another window; see Partition."""
        changed = self.token_partition.with_window(window)
        return self if changed is self.token_partition else UlyssesPartition(changed, self.ulysses_degree)

    def owned(self, rank: int) -> Int64[np.ndarray, "local"]:
        """Packed indices of the rank's tokens, ascending: its local order."""
        return self._slice(rank, self.token_partition.owned(rank // self.ulysses_degree))

    def document_tokens(self, rank: int) -> Int64[np.ndarray, "local"]:
        """How long the document of each of the rank's tokens is; 0 for padding."""
        return self._slice(rank, self.token_partition.document_tokens(rank // self.ulysses_degree))

    @cached_property
    def pairs(self) -> Int64[np.ndarray, "ranks"]:
        """(query, key) pairs of each rank, for one head: its group's pairs, for its part of the heads."""
        return np.repeat(self.token_partition.pairs // self.ulysses_degree, self.ulysses_degree)

    @property
    def balance(self) -> float:
        """Largest work of a rank over the mean; ranks of a group do the same work."""
        return self.token_partition.balance

    def describe(self) -> str:
        """The cut in a line: heads within groups, and the tokens of groups."""
        groups = f"; groups: {self.token_partition.describe()}" if self.token_partition.ranks > 1 else ""
        return f"Ulysses over {self.ulysses_degree} ranks{groups}"

    def _slice(self, rank: int, of_group: Int64[np.ndarray, "group_tokens"]) -> Int64[np.ndarray, "local"]:
        member = rank % self.ulysses_degree
        return of_group[member * self.local_tokens : (member + 1) * self.local_tokens]


AnyPartition = Partition | UlyssesPartition


def partition_tokens_and_heads(
    document: Int32[np.ndarray, "sequences context"],
    *,
    ranks: int,
    ulysses_degree: int = 1,
    layout: str = "auto",
    exchange: str = "auto",
    price: Price = PRICE,
) -> AnyPartition:
    """Cut packed sequences over ``ranks / ulysses_degree`` groups, and heads over each group's ranks.

    See ``partition_tokens``. Raises UserError where the ranks make no groups of that size.
    """
    if ranks % ulysses_degree:
        raise UserError(
            "context ranks cannot be divided into equal Ulysses groups",
            where="parallel.ulysses_degree",
            why=f"{ranks} context ranks are not a multiple of {ulysses_degree}",
            fix="choose a divisor of parallel.context_parallel",
        )
    token_partition = partition_tokens(
        document, ranks=ranks // ulysses_degree, layout=layout, exchange=exchange, price=price
    )
    if token_partition.tokens % ranks:
        raise UserError(
            "sequences cannot be divided into equal parts",
            where="parallel.context_parallel",
            why=f"{token_partition.tokens} tokens over {ranks} context ranks",
            fix="choose a context length that is a multiple of the context ranks",
        )
    return token_partition if ulysses_degree == 1 else UlyssesPartition(token_partition, ulysses_degree)
