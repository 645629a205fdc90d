"""Gradients of a rank's tiles: those on its own keys, and those on received blocks.

Each tile's gradients follow from the global output and log-sum-exp, so they sum to the gradients of the whole.
"""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ropewalk.attention.exchange import Block
from ropewalk.attention.schedule import AttentionSchedule, BackwardInputs, Calls, Scores

Queries = Float[Tensor, "local heads head_dim"]
Keys = Float[Tensor, "local kv_heads head_dim"]


def differentiate_causal_tiles(
    calls: Calls, inputs: BackwardInputs, key: Keys, value: Keys, scores: Scores
) -> tuple[Queries, Keys, Keys]:
    """Gradients of all own tokens: causal tiles share neither queries nor keys."""
    if not calls.calls:
        return torch.zeros_like(inputs.query), torch.zeros_like(key), torch.zeros_like(value)
    of_calls = [call.differentiate(inputs, key, value, scores) for call in calls.calls]
    d_query, d_key, d_value = (calls.assemble(parts) for parts in zip(*of_calls, strict=True))
    return d_query, d_key, d_value


def differentiate_own(
    schedule: AttentionSchedule,
    inputs: BackwardInputs,
    key: Keys,
    value: Keys,
    scores: Scores,
    d_query: Queries | None,
) -> tuple[Queries, Block]:
    """Gradients of queries, added to ``d_query`` if there are any yet, and of own keys, from tiles on own keys."""
    exact = exact_dtype(inputs.query.dtype)
    d_own, d_key, d_value = differentiate_causal_tiles(schedule.causal_tiles, inputs, key, value, scores)
    d_query = d_own.to(exact) if d_query is None else d_query.add_(d_own)
    # twice [local, kv_heads, head_dim] -> [local, both_heads, head_dim]
    d_block = torch.cat([d_key, d_value], dim=1).to(exact)
    for calls in schedule.steps[0]:
        # twice [local, kv_heads, head_dim] -> [local, both_heads, head_dim]
        _accumulate(calls, inputs, torch.cat([key, value], dim=1), scores, d_query, d_block)
    return d_query, d_block


def differentiate_blocks(
    steps: Sequence[Sequence[Calls]], inputs: BackwardInputs, scores: Scores, d_query: Queries, blocks: Iterator[Block]
) -> Iterator[Block]:
    """Gradients of the received blocks one after the other; those of the queries are added to ``d_query``."""
    for layers, block in zip(steps, blocks, strict=True):
        d_block = torch.zeros_like(block, dtype=d_query.dtype)
        for calls in layers:
            _accumulate(calls, inputs, block, scores, d_query, d_block)
        yield d_block


def _accumulate(
    calls: Calls, inputs: BackwardInputs, block: Block, scores: Scores, d_query: Queries, d_block: Block
) -> None:
    """Add the gradients of ``calls`` on one block of keys, in the order of calls and tiles."""
    d_queries = []
    for call in calls.calls:
        # [keys, both_heads, head_dim] -> twice [keys, kv_heads, head_dim]
        keys, values = block.chunk(2, dim=1)
        d_results, d_key, d_value = call.differentiate(inputs, keys, values, scores)
        d_queries.append(d_results)
        call.add_to_keys(d_block, d_key, d_value)
    # [computed, heads, head_dim] of [local, heads, head_dim]
    d_query[calls.tokens] += calls.assemble(tuple(d_queries))


def exact_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of partial sums: float32 or better."""
    return torch.promote_types(dtype, torch.float32)
