"""Sums up to each place of a dimension: torch's cumsum, or additions in one order for a GPU that must repeat its bits.

torch's cumsum of real numbers on a GPU may add in any order. Under ``torch.use_deterministic_algorithms`` it raises an
error instead, so a recurrent layer could not be trained with ``parallel.deterministic``.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def running_sum(values: Float[Tensor, "*shape"], dim: int) -> Float[Tensor, "*shape"]:
    """The sum of ``values`` up to each place of ``dim``, that place included."""
    if not _must_keep_order(values):
        return values.cumsum(dim)
    total, length, shift = values, values.shape[dim], 1
    while shift < length:
        # [outer, length, inner] -> [outer, shift, inner] and [outer, left, inner]
        first, last = total.split([shift, length - shift], dim)
        # [outer, shift, inner] and [outer, left, inner] -> [outer, length, inner]
        total = torch.cat([first, last + total.narrow(dim, 0, length - shift)], dim)
        shift *= 2
    return total


def _must_keep_order(values: Float[Tensor, "..."]) -> bool:
    """Whether torch's cumsum would refuse."""
    return values.is_cuda and torch.are_deterministic_algorithms_enabled()
