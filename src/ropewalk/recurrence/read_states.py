"""Outputs of chunks, given the state before each: what a chunk's queries find in its own values, and in that state.

With G the decays summed up to a token, E the decays between two tokens, u a chunk's values and h the state before it:

    P = E * (q k^T), not later tokens     o = P u + exp(G) q h

The backward is written by hand, and makes E and P again: only its inputs are kept. Autograd would keep four matrices
of a chunk for each head.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ropewalk.recurrence.chunk_tiles import accumulate_product, tile_chunks
from ropewalk.recurrence.decay_powers import TotalDecay, decay_between, lower_triangle, raise_decay

GroupKeys = Float[Tensor, "chunks key_heads chunk key_dim"]
ChunkValues = Float[Tensor, "chunks heads chunk value_dim"]
HeadKeys = Float[Tensor, "chunks heads chunk key_dim"]
States = Float[Tensor, "chunks heads key_dim value_dim"]
Squares = Float[Tensor, "chunks heads chunk chunk"]


class ReadStates(torch.autograd.Function):
    """``apply(query, key, total, values, states)`` -> outputs."""

    @staticmethod
    def forward(
        ctx: Any, query: GroupKeys, key: GroupKeys, total: TotalDecay, values: ChunkValues, states: States
    ) -> ChunkValues:
        ctx.save_for_backward(query, key, total, values, states)
        outputs, lower = torch.empty_like(values), lower_triangle(total)
        for at in tile_chunks(len(values), values.shape[1], values.device):
            scores = by_heads(query[at] @ key[at].transpose(-1, -2), decay_between(total[at], lower))
            reading = by_heads(query[at], raise_decay(total[at]))
            found = outputs[at].flatten(0, 1)
            torch.bmm(reading.flatten(0, 1), states[at].flatten(0, 1), out=found)
            accumulate_product(found, scores.flatten(0, 1), values[at].flatten(0, 1))
        return outputs

    @staticmethod
    def backward(ctx: Any, grad: ChunkValues) -> tuple[GroupKeys, GroupKeys, TotalDecay, ChunkValues, States]:
        saved = ctx.saved_tensors  # once: a recomputed block gives its tensors only once
        query, key, total, values, states = saved
        grads = tuple(torch.empty_like(each) for each in saved)
        lower, grad = lower_triangle(total), grad.contiguous()
        for at in tile_chunks(len(values), values.shape[1], values.device):
            tile = tuple(each[at] for each in (query, key, total, values, states))
            _differentiate(tile, grad[at], tuple(each[at] for each in grads), lower)
        return grads  # type: ignore[return-value]


def _differentiate(
    tile: tuple[Float[Tensor, "chunks _ _ _"], ...],
    grad: ChunkValues,
    grads: tuple[Float[Tensor, "chunks _ _ _"], ...],
    lower: Float[Tensor, "chunk chunk"],
) -> None:
    """Write the gradients of a tile's inputs into ``grads``."""
    query, key, total, values, states = tile
    to_query, to_key, to_total, to_values, to_states = grads
    groups, between = key.shape[1], decay_between(total, lower)
    growth = raise_decay(total)
    scores, reading = by_heads(query @ key.transpose(-1, -2), between), by_heads(query, growth)
    of_scores = torch.matmul(grad, values.transpose(-1, -2))
    of_reading = torch.matmul(grad, states.transpose(-1, -2))
    torch.bmm(scores.flatten(0, 1).transpose(-1, -2), grad.flatten(0, 1), out=to_values.flatten(0, 1))
    torch.bmm(reading.flatten(0, 1).transpose(-1, -2), grad.flatten(0, 1), out=to_states.flatten(0, 1))
    of_decay = scores.mul_(of_scores)
    of_decay.diagonal(dim1=-2, dim2=-1).zero_()  # no decay: its rounding would hide strong ones, which are small
    torch.sub(of_decay.sum(-1, keepdim=True), of_decay.sum(-2).unsqueeze(-1), out=to_total)
    to_total.add_(reading.mul_(of_reading).sum(-1, keepdim=True))
    of_products = sum_heads(of_scores.mul_(between), groups)
    to_query.copy_(sum_heads(of_reading.mul_(growth), groups))
    accumulate_product(to_query.flatten(0, 1), of_products.flatten(0, 1), key.flatten(0, 1))
    torch.bmm(of_products.flatten(0, 1).transpose(-1, -2), query.flatten(0, 1), out=to_key.flatten(0, 1))


def by_heads(
    rows: Float[Tensor, "chunks key_heads chunk _"], factor: Float[Tensor, "chunks heads chunk _"]
) -> Float[Tensor, "chunks heads chunk _"]:
    """``rows`` of each key head times the ``factor`` of each of its heads."""
    if rows.shape[1] == factor.shape[1]:
        return rows * factor
    spread: Tensor = rows.unsqueeze(2) * factor.unflatten(1, (rows.shape[1], -1))
    return spread.flatten(1, 2)


def sum_heads(rows: Float[Tensor, "chunks heads _ _"], groups: int) -> Float[Tensor, "chunks key_heads _ _"]:
    """The sum over the heads of each key head."""
    if rows.shape[1] == groups:
        return rows
    found: Tensor = rows.unflatten(1, (groups, -1)).sum(2)
    return found
