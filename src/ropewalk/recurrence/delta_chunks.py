"""What a chunk of a gated delta rule does, whatever the state before it: values, and what its keys erase of a state.

With G the decays summed up to a token, E the decays between two tokens, k and b its keys and betas:

    A = b E * (k k^T), earlier tokens     T = (1 + A)^-1
    values = T (b v)     erasing = T (b exp(G) k)     fading = exp(G_last - G) k     kept = exp(G_last)

(Yang et al., 2412.06464). T is found once, by substitution, and kept: the backward needs products with it alone. E and
the products of keys are made again there.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ropewalk.recurrence.chunk_tiles import accumulate_product, tile_chunks
from ropewalk.recurrence.decay_powers import Lower, TotalDecay, decay_between, lower_triangle, raise_decay
from ropewalk.recurrence.read_states import ChunkValues, GroupKeys, HeadKeys, Squares, by_heads, sum_heads

Betas = Float[Tensor, "chunks heads chunk 1"]
HeadKept = Float[Tensor, "chunks heads 1 1"]
_MOST_WEIGHT = 2.01  # 2, and what rounding adds


class DeltaChunks(torch.autograd.Function):
    """``apply(key, values, total, beta)`` -> values, erasing, fading and kept."""

    @staticmethod
    def forward(
        ctx: Any, key: GroupKeys, value: ChunkValues, total: TotalDecay, beta: Betas
    ) -> tuple[ChunkValues, HeadKeys, HeadKeys, HeadKept]:
        chunks, heads, tokens, _ = value.shape
        values = torch.empty_like(value)
        erasing, fading = (key.new_empty(chunks, heads, tokens, key.shape[-1]) for _ in range(2))
        inverse = key.new_empty(chunks, heads, tokens, tokens)
        lower, unit = lower_triangle(total), torch.eye(tokens, dtype=key.dtype, device=key.device)
        kept = raise_decay(total[:, :, -1:])
        for at in tile_chunks(chunks, heads, key.device):
            growth, fade = raise_decay(total[at]), raise_decay(total[at][:, :, -1:] - total[at])
            weights = by_heads(key[at] @ key[at].transpose(-1, -2), beta[at])
            inverse[at] = _invert(weights, decay_between(total[at], lower), unit)
            solver = inverse[at].flatten(0, 1)
            torch.bmm(solver, (beta[at] * value[at]).flatten(0, 1), out=values[at].flatten(0, 1))
            torch.bmm(solver, by_heads(key[at], beta[at] * growth).flatten(0, 1), out=erasing[at].flatten(0, 1))
            fading[at] = by_heads(key[at], fade)
        ctx.save_for_backward(key, value, total, beta, inverse, values, erasing)
        return values, erasing, fading, kept

    @staticmethod
    def backward(
        ctx: Any, of_values: ChunkValues, of_erasing: HeadKeys, of_fading: HeadKeys, of_kept: HeadKept
    ) -> tuple[GroupKeys, ChunkValues, TotalDecay, Betas]:
        saved = ctx.saved_tensors
        grads = tuple(torch.empty_like(each) for each in saved[:4])
        given, lower = (of_values, of_erasing, of_fading), lower_triangle(saved[2])
        for at in tile_chunks(len(saved[1]), saved[1].shape[1], saved[1].device):
            _differentiate(
                tuple(each[at] for each in saved),
                tuple(each[at] for each in given),
                tuple(each[at] for each in grads),
                lower,
            )
        to_key, to_value, to_total, to_beta = grads
        to_total[:, :, -1:] += of_kept * raise_decay(saved[2][:, :, -1:])
        return to_key, to_value, to_total, to_beta


def _invert(weights: Squares, between: Squares, unit: Lower) -> Squares:
    """(1 + what is below the diagonal of ``weights * between``)^-1.

    The decays are taken out of the system and put back, so that substitution makes no denormal numbers. But of long
    keys what decays would hide grows beyond all numbers. So they stay in the system of a chunk where a step of the rule
    may lengthen a state: 1 - b k k^T with b |k|^2 above 2, which keys of norm 1 never have.
    """
    largest = weights.diagonal(dim1=-2, dim2=-1).amax(-1)[..., None, None]
    short = (largest <= _MOST_WEIGHT).to(weights.dtype)  # [chunks, heads, 1, 1]; no decay is above 1
    system = weights * torch.maximum(between, short)
    found = torch.linalg.solve_triangular(system, unit.expand_as(system), upper=False, unitriangular=True)
    inverse: Squares = found.mul_(torch.maximum(between, 1 - short))
    return inverse


def _differentiate(
    saved: tuple[Float[Tensor, "chunks _ _ _"], ...],
    given: tuple[Float[Tensor, "chunks heads chunk _"], ...],
    grads: tuple[Float[Tensor, "chunks _ _ _"], ...],
    lower: Lower,
) -> None:
    """Write the gradients of a tile's inputs into ``grads``."""
    key, value, total, beta, inverse, values, erasing = saved
    of_values, of_erasing, of_fading = given
    to_key, to_value, to_total, to_beta = grads
    groups, across = key.shape[1], inverse.transpose(-1, -2)
    growth, fade, between = raise_decay(total), raise_decay(total[:, :, -1:] - total), decay_between(total, lower)
    of_right, of_left = across @ of_values, across @ of_erasing  # of b v and of b exp(G) k
    of_weights = of_right @ values.transpose(-1, -2)
    accumulate_product(of_weights.flatten(0, 1), of_left.flatten(0, 1), erasing.flatten(0, 1).transpose(-1, -2))
    of_weights.mul_(torch.tril(lower, -1)).neg_()
    torch.mul(of_right, beta, out=to_value)
    grown = _dot(by_heads(key, growth), of_left)
    products = by_heads(key @ key.transpose(-1, -2), between).mul_(of_weights)  # of the decays between, without beta
    torch.add(_dot(of_right, value), grown + products.sum(-1, keepdim=True), out=to_beta)
    faded = _dot(by_heads(key, fade), of_fading)
    faded[:, :, -1:] = 0  # the last token does not fade: its rounding would hide strong decays, which are small
    products.mul_(beta)
    torch.sub(products.sum(-1, keepdim=True), products.sum(-2).unsqueeze(-1), out=to_total)
    to_total.add_(grown.mul_(beta)).sub_(faded)
    to_total[:, :, -1:] += faded.sum(2, keepdim=True)
    of_products = sum_heads(of_weights.mul_(between).mul_(beta), groups)
    rows = of_left.mul_(beta * growth).add_(of_fading * fade)
    both = of_products + of_products.transpose(-1, -2)
    to_key.copy_(sum_heads(rows, groups))
    accumulate_product(to_key.flatten(0, 1), both.flatten(0, 1), key.flatten(0, 1))


def _dot(left: HeadKeys, right: HeadKeys) -> TotalDecay:
    return (left * right).sum(-1, keepdim=True)
