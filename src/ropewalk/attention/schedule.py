"""The parts of a schedule: kernel calls, the tokens that each reads, and where its results go.

A call holds its kernel and the memory layout of its tiles. Forward and backward over ranks only pass tensors of
tokens in and out, so a kernel that wants stacked tiles of one shape and a varlen kernel are called in the same way.
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
class BackwardInputs:
    """The inputs of the backward of every tile, over all tiles of its queries; one entry per query.

    ``logsum`` may have one row more, which is infinite: it serves padding queries.
    """

    query: QueryRows
    grad: QueryRows
    out: QueryRows
    logsum: LogSums


@dataclass(frozen=True, slots=True)
class Scores:
    """How scores follow from products: times ``scale``, then bounded by ``soft_cap`` if there is one."""

    scale: float
    soft_cap: float | None = None


@runtime_checkable
class Call(Protocol):
    """One call of a kernel, on tokens of whole tensors."""

    def attend(self, query: QueryRows, key: KeyRows, value: KeyRows, scores: Scores) -> tuple[Tensor, Tensor]:
        """Output and log-sum-exp of this call's queries over this call's keys, tile after tile."""

    def differentiate(
        self, inputs: BackwardInputs, key: KeyRows, value: KeyRows, scores: Scores
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of this call's queries, keys and values, tile after tile."""

    def add_to_keys(self, total: Tensor, d_key: Tensor, d_value: Tensor) -> None:
        """Add gradients of keys and values, as ``differentiate`` gives them, to ``total``: both, side by side."""


@dataclass(frozen=True, slots=True)
class Calls:
    """Calls whose queries are disjoint; their results, concatenated, belong to ``rows``.

    Where ``order`` is given, the i-th of those rows is the ``order[i]``-th of the results followed by one row of
    zeros.
    """

    calls: tuple[Call, ...]
    rows: Tensor | slice
    order: Tensor | None

    def attend(self, query: QueryRows, key: KeyRows, value: KeyRows, scores: Scores) -> tuple[Tensor, Tensor]:
        """Output and log-sum-exp of ``rows``; without calls zeros and minus infinity: nothing was seen yet."""
        if not self.calls:
            exact = torch.promote_types(query.dtype, torch.float32)
            return torch.zeros_like(query), query.new_full(query.shape[:2], -torch.inf, dtype=exact)
        outs, logsums = zip(*(call.attend(query, key, value, scores) for call in self.calls), strict=True)
        return self.assemble(outs), self.assemble(logsums)

    def assemble(self, parts: tuple[Tensor, ...]) -> Tensor:
        """Results of the calls as rows in the order of ``rows``."""
        if self.order is None:
            return parts[0] if len(parts) == 1 else torch.cat(parts)
        return torch.cat([*parts, parts[0].new_zeros(1, *parts[0].shape[1:])]).index_select(0, self.order)


@dataclass(frozen=True, slots=True)
class AttentionSchedule:
    """The work of a rank: causal tiles on its own tokens, then for each step lists of calls on its block of keys.

    ``has_padding``: some queries read the row after the last one, whose log-sum-exp must be infinite. ``gathered``:
    there are no causal tiles, and the one block holds own and received keys together.
    """

    rank: int
    causal_tiles: Calls
    steps: tuple[tuple[Calls, ...], ...]
    has_padding: bool = False
    gathered: bool = False

    @property
    def merges(self) -> bool:
        """Whether any query has more than its triangle."""
        return any(self.steps)
