"""The share of attention that each head puts on marked tokens, for some queries, on any context ranks.

Attention is linear in its values. So with values that are 1 at the marked tokens and 0 elsewhere, its output is the
share of the weights on them. The same kernels and exchanges compute it as in training, windows and caps included. No
matrix of weights is ever built: each rank gets the shares of its own queries.
"""

from contextlib import AbstractContextManager

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ropewalk.core.hold_last import hold_last


class NeedleAttention:
    """``needle`` [local] is the number of the needle that each token belongs to, ``asked`` of the one it looks for.

    -1 is none. Numbers are per document; those beyond a head's width are left out.
    """

    def __init__(self, needle: Int64[Tensor, "local"], asked: Int64[Tensor, "local"]) -> None:
        self._needle, self._asked = needle, asked
        self.shares: dict[int, Float[Tensor, heads]] = {}
        """Per layer: the sum of the shares over the queries that look for a needle, in float64."""
        self.queries = 0

    def mark(self, key: Float[Tensor, "local kv_heads head_dim"]) -> Float[Tensor, "local kv_heads head_dim"]:
        """The values whose attention is the share: column ``n`` is 1 at the tokens of needle ``n``."""
        marks = torch.zeros_like(key)
        rows = ((self._needle >= 0) & (self._needle < key.shape[-1])).nonzero()[:, 0]
        marks[rows, :, self._needle[rows]] = 1
        return marks

    def keep(self, layer: int, output: Float[Tensor, "local heads head_dim"]) -> None:
        """Add up the shares of a layer."""
        rows = ((self._asked >= 0) & (self._asked < output.shape[-1])).nonzero()[:, 0]
        self.queries = len(rows)
        self.shares[layer] = output[rows, :, self._asked[rows]].double().sum(0)


WATCHED_NEEDLES: list[NeedleAttention] = []
"""Those that attention fills now (model/attention_interface.py)."""


def watch_needles(found: NeedleAttention) -> AbstractContextManager[NeedleAttention]:
    """Fill ``found`` in the forwards of this context."""
    return hold_last(WATCHED_NEEDLES, found)
