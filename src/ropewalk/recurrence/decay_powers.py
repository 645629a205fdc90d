"""Powers of sums of decays: exactly zero where they are too small to count, so that no number is denormal.

A decay of -10 a token, which published models have, leaves exp(-90) after nine tokens. That is a denormal number in
float32, and a CPU takes ten times as long for the exponential and for each product with it. The bar is the cube root
of the smallest normal number, 2e-13 in float32 and 3e-103 in float64: a product of three such powers is normal, and
what is lost is far below the rounding of the values that it is added to.
"""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

TotalDecay = Float[Tensor, "chunks heads chunk 1"]
"""Decays summed up from a chunk's first token to each of its tokens."""
Lower = Float[Tensor, "chunk chunk"]
"""1 where the second token is not later than the first, else 0."""


def raise_decay(exponents: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """``exp`` of exponents, each at most 0 but for those that the caller masks; without a graph."""
    least = math.log(torch.finfo(exponents.dtype).tiny) / 3
    powers = exponents.clamp(min=least, max=0).exp_()
    flushed: Tensor = functional.threshold(powers, 1.001 * math.exp(least), 0.0, inplace=True)
    return flushed


class RaiseDecay(torch.autograd.Function):
    """``apply(exponents)``: ``raise_decay`` with a graph."""

    @staticmethod
    def forward(ctx: Any, exponents: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        powers = raise_decay(exponents)
        ctx.save_for_backward(powers)
        return powers

    @staticmethod
    def backward(ctx: Any, grad: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        (powers,) = ctx.saved_tensors
        slopes: Tensor = grad * powers
        return slopes


def lower_triangle(total: TotalDecay) -> Lower:
    """Of the tokens of a chunk."""
    tokens = total.shape[2]
    return torch.ones(tokens, tokens, dtype=total.dtype, device=total.device).tril()


def decay_between(total: TotalDecay, lower: Lower) -> Float[Tensor, "chunks heads chunk chunk"]:
    """The decay from an earlier token of a chunk to a later one; 0 above the diagonal."""
    return raise_decay(total - total.transpose(-1, -2)).mul_(lower)
