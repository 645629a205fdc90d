"""The parts of a schedule: kernel calls, the tokens that each reads, and where its results go.

A call holds its kernel and the memory layout of its tiles. Forward and backward over ranks only pass tensors of
tokens in and out, so a kernel that wants stacked tiles of one shape and a varlen kernel are called in the same way.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor

QueryTokens = Float[Tensor, "queries heads head_dim"]
KeyTokens = Float[Tensor, "keys kv_heads head_dim"]
LogSums = Float[Tensor, "queries_and_pads heads"]
CallResults = tuple[Float[Tensor, "results heads head_dim"], Float[Tensor, "results heads"]]
"""Output and log-sum-exp of the queries that a call computes."""
CallGradients = tuple[
    Float[Tensor, "results heads head_dim"],
    Float[Tensor, "read kv_heads head_dim"],
    Float[Tensor, "read kv_heads head_dim"],
]
"""Gradients of the queries that a call computes, and of the keys and values that it reads."""


@dataclass(frozen=True, slots=True)
class BackwardInputs:
    """The inputs of the backward of every tile, over all tiles of its queries; one entry per query.

    ``logsum`` may have one entry more, which is infinite: it serves padding queries.
    """

    query: QueryTokens
    grad: QueryTokens
    out: QueryTokens
    logsum: LogSums


@dataclass(frozen=True, slots=True)
class Scores:
    """How scores follow from products: times ``scale``, then bounded by ``soft_cap`` if there is one."""

    scale: float
    soft_cap: float | None = None


@runtime_checkable
class Call(Protocol):
    """One call of a kernel, on tokens of whole tensors."""

    def attend(self, query: QueryTokens, key: KeyTokens, value: KeyTokens, scores: Scores) -> CallResults:
        """Output and log-sum-exp of this call's queries over this call's keys, tile after tile."""

    def differentiate(self, inputs: BackwardInputs, key: KeyTokens, value: KeyTokens, scores: Scores) -> CallGradients:
        """Gradients of this call's queries, keys and values, tile after tile."""

    def add_to_keys(
        self,
        total: Float[Tensor, "keys both_heads head_dim"],
        d_key: Float[Tensor, "read kv_heads head_dim"],
        d_value: Float[Tensor, "read kv_heads head_dim"],
    ) -> None:
        """Add gradients of keys and values, as ``differentiate`` gives them, to ``total``: both, side by side."""


@dataclass(frozen=True, slots=True)
class Calls:
    """Calls whose queries are disjoint; their results, concatenated, belong to ``tokens``.

    Where ``order`` is given, the result of the i-th of those tokens is the ``order[i]``-th of the calls' results
    followed by one of zeros.
    """

    calls: tuple[Call, ...]
    tokens: Int64[Tensor, "computed"] | slice
    order: Int64[Tensor, "computed"] | None

    def attend(
        self, query: QueryTokens, key: KeyTokens, value: KeyTokens, scores: Scores
    ) -> tuple[Float[Tensor, "computed heads head_dim"], Float[Tensor, "computed heads"]]:
        """Output and log-sum-exp of ``tokens``; without calls zeros and minus infinity: nothing was seen yet."""
        if not self.calls:
            exact = torch.promote_types(query.dtype, torch.float32)
            return torch.zeros_like(query), query.new_full(query.shape[:2], -torch.inf, dtype=exact)
        outs, logsums = zip(*(call.attend(query, key, value, scores) for call in self.calls), strict=True)
        return self.assemble(outs), self.assemble(logsums)

    def assemble(self, parts: tuple[Float[Tensor, "_ ..."], ...]) -> Float[Tensor, "computed ..."]:
        """Results of the calls in the order of ``tokens``."""
        if self.order is None:
            # [results, ...] of each call -> [computed, ...]
            return parts[0] if len(parts) == 1 else torch.cat(parts)
        # [results, ...] of each call and [1, ...] of zeros -> [all results + 1, ...] -> [computed, ...]
        return torch.cat([*parts, parts[0].new_zeros(1, *parts[0].shape[1:])]).index_select(0, self.order)


@dataclass(frozen=True, slots=True)
class AttentionSchedule:
    """The work of a rank: causal tiles on its own tokens, then for each step lists of calls on its block of keys.

    ``has_padding``: some queries read the log-sum-exp after the last one, which must be infinite. ``gathered``:
    there are no causal tiles, and the one block holds own and received keys together.
    """

    rank: int
    causal_tiles: Calls
    steps: tuple[tuple[Calls, ...], ...]
    has_padding: bool = False
    gathered: bool = False

    @property
    def merges(self) -> bool:
        """Whether any query has keys outside of its causal tile."""
        return any(self.steps)
