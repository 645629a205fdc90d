"""What a schedule is made of: kernel calls, each on some rows, and where their results belong.

A call knows which kernel it asks and how its tiles lie in memory, and nobody else does: forward and backward over
ranks see rows go in and rows come out. So a kernel that wants tiles of one shape stacked and one that takes them end
to end, each with its length, are called alike.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

QueryRows = Float[Tensor, "queries heads head_dim"]
KeyRows = Float[Tensor, "keys kv_heads head_dim"]
LogSums = Float[Tensor, "queries_and_pads heads"]


@dataclass(frozen=True, slots=True)
class Given:
    """What the gradients of every tile need of all of its query's tiles together; one entry per row of queries.

    ``logsum`` may have one row more, infinite, for queries that are none.
    """

    query: QueryRows
    grad: QueryRows
    out: QueryRows
    logsum: LogSums


@dataclass(frozen=True, slots=True)
class Scores:
    """How scores are made of products: times ``scale``, then bent to stay below ``soft_cap`` if there is one."""

    scale: float
    soft_cap: float | None = None


@runtime_checkable
class Call(Protocol):
    """One call of a kernel, on rows of whole tensors."""

    def attend(self, query: QueryRows, key: KeyRows, value: KeyRows, scores: Scores) -> tuple[Tensor, Tensor]:
        """Output and log-sum-exp of this call's queries over this call's keys, tile after tile."""

    def differentiate(
        self, given: Given, key: KeyRows, value: KeyRows, scores: Scores
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of this call's queries, keys and values, tile after tile."""

    def add_to_keys(self, total: Tensor, d_key: Tensor, d_value: Tensor) -> None:
        """Add gradients of keys and values, as ``differentiate`` gives them, to ``total``: both, side by side."""


@dataclass(frozen=True, slots=True)
class Calls:
    """Calls whose queries are disjoint; their results, laid end to end, are about ``rows``.

    Where ``home`` is given, the i-th of those rows is the ``home[i]``-th of the results followed by one row of zeros.
    """

    calls: tuple[Call, ...]
    rows: Tensor | slice
    home: Tensor | None

    def attend(self, query: QueryRows, key: KeyRows, value: KeyRows, scores: Scores) -> tuple[Tensor, Tensor]:
        """Output and log-sum-exp of ``rows``; without calls zeros and minus infinity: nothing was seen yet."""
        if not self.calls:
            exact = torch.promote_types(query.dtype, torch.float32)
            return torch.zeros_like(query), query.new_full(query.shape[:2], -torch.inf, dtype=exact)
        outs, logsums = zip(*(call.attend(query, key, value, scores) for call in self.calls), strict=True)
        return self.assemble(outs), self.assemble(logsums)

    def assemble(self, parts: tuple[Tensor, ...]) -> Tensor:
        """Results of the calls as rows in the order of ``rows``."""
        if self.home is None:
            return parts[0] if len(parts) == 1 else torch.cat(parts)
        return torch.cat([*parts, parts[0].new_zeros(1, *parts[0].shape[1:])]).index_select(0, self.home)


@dataclass(frozen=True, slots=True)
class Schedule:
    """All that a rank computes: triangles on its own rows, then for each step lists of calls on its block of keys.

    ``pads``: some queries read the row after the last one, whose log-sum-exp must be infinite. ``joint``: there are no
    triangles, and the one block holds own and received rows together.
    """

    rank: int
    triangles: Calls
    steps: tuple[tuple[Calls, ...], ...]
    pads: bool = False
    joint: bool = False

    @property
    def merges(self) -> bool:
        """Whether any query has more than its triangle."""
        return any(self.steps)
