"""Attention over packed documents on several ranks: partition x exchange x kernel, forward and backward.

Every rank calls it with its own tokens. Keys of other ranks arrive while the rank computes on its own keys; partial
results are merged by log-sum-exp. The backward pass recomputes scores only: each tile's gradients follow from the
global output and log-sum-exp. Received keys are kept for the backward pass where no rank receives more than it owns;
otherwise they are fetched again.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from ropewalk.attention.choose_kernel import FLEX, Demand, choose_kernel, schedule_tiles
from ropewalk.attention.differentiate_tiles import (
    differentiate_blocks,
    differentiate_causal_tiles,
    differentiate_own,
    exact_dtype,
)
from ropewalk.attention.exchange import Block
from ropewalk.attention.flex import attend_flex
from ropewalk.attention.key_transfer import find_transfer
from ropewalk.attention.latents import Expansion, Latents
from ropewalk.attention.merge import merge, sink
from ropewalk.attention.recompute_cache import current_cache
from ropewalk.attention.schedule import AttentionSchedule, BackwardInputs, Scores
from ropewalk.attention.ulysses import find_ulysses_groups, heads_to_tokens, repeat_kv, tokens_to_heads
from ropewalk.attention.value_width import widen
from ropewalk.partition.partition import Partition
from ropewalk.partition.ulysses import AnyPartition

Queries = Float[Tensor, "local heads head_dim"]
Keys = Float[Tensor, "local kv_heads head_dim"]
Values = Float[Tensor, "local kv_heads value_dim"]
Output = Float[Tensor, "local heads value_dim"]
Sent = Float[Tensor, "local 1 sent_width"]
Received = Float[Tensor, "_ _ _"]
"""A block of keys and values, or of latents."""
Weight = Float[Tensor, "..."]
Sinks = Float[Tensor, "heads"]


def attend(
    query: Queries,
    key: Keys,
    value: Values,
    *,
    partition: AnyPartition,
    group: dist.ProcessGroup | None,
    scale: float | None = None,
    soft_cap: float | None = None,
    sinks: Sinks | None = None,
) -> Output:
    """Causal attention within documents for this rank's tokens, in the partition's local order.

    Differentiable, in any floating dtype; padding gets zeros. On a CPU two runs agree in all bits; on a GPU they do
    under ``torch.use_deterministic_algorithms``. ``scale`` multiplies the scores, 1 / sqrt(head_dim) by default.
    ``soft_cap`` bends them, c tanh(score / c), as Gemma 2 does; ``sinks`` are one more score per head that takes part
    in the softmax and carries no value, as in GPT-OSS. Values may be narrower than keys. ``group`` holds the
    partition's ranks in order; None for a partition over one rank. The kernel is the fastest that can, or the one that
    ``use_kernel`` names.

    Raises UserError where no kernel supports the request, and where heads cannot be split as the partition says.
    """
    scores = Scores(query.shape[-1] ** -0.5 if scale is None else scale, soft_cap)
    if isinstance(partition, Partition):
        return _attend_tokens(query, key, value, sinks, _assign(query, partition, group, scores))
    assert group is not None
    token_group, ulysses_group = find_ulysses_groups(group, partition.ulysses_degree)
    heads, ulysses_degree = query.shape[1], partition.ulysses_degree
    task = _assign(query, partition, group, scores)
    own = (query, repeat_kv(heads, key, ulysses_degree), repeat_kv(heads, value, ulysses_degree))
    query, key, value = (tokens_to_heads(each, ulysses_group) for each in own)
    if sinks is not None:
        # [heads] -> [heads / degree] for each rank of the Ulysses group
        sinks = sinks.chunk(ulysses_degree)[dist.get_rank(ulysses_group)]
    return heads_to_tokens(_attend_tokens(query, key, value, sinks, replace(task, group=token_group)), ulysses_group)


def attend_latents(
    query: Queries,
    key: Keys,
    value: Values,
    latents: Latents,
    *,
    partition: AnyPartition,
    group: dist.ProcessGroup | None,
    scale: float,
) -> Output:
    """``attend``, where ``latents`` travel in place of the keys and values that were made from them.

    Where heads are cut over ranks (Ulysses), or FlexAttention is the kernel, keys and values travel.
    """
    if not isinstance(partition, Partition):
        return attend(query, key, value, partition=partition, group=group, scale=scale)
    task = _assign(query, partition, group, Scores(scale))
    return _attend_tokens(query, key, value, None, replace(task, latents=latents))


@dataclass(frozen=True, slots=True)
class _Task:
    """The partition, process group, scores and kernel of one attention call."""

    partition: Partition
    group: dist.ProcessGroup | None
    scores: Scores
    kernel: str
    latents: Latents | None = None

    def schedule(self, device: torch.device) -> AttentionSchedule:
        """This rank's calls."""
        rank = 0 if self.group is None else dist.get_rank(self.group)
        return schedule_tiles(self.partition, rank, self.kernel, device)


def _assign(query: Queries, partition: AnyPartition, group: dist.ProcessGroup | None, scores: Scores) -> _Task:
    """The task of a rank that brings ``query``, with the fastest kernel for it."""
    assert partition.ranks == (1 if group is None else dist.get_world_size(group)), "the group's ranks share the tokens"
    assert len(query) == partition.local_tokens, "a rank brings the tokens that it owns"
    windowed, capped = partition.window is not None, scores.soft_cap is not None
    kernel = choose_kernel(Demand(query.device.type, query.dtype, query.shape[-1], windowed, capped))
    tokens = partition if isinstance(partition, Partition) else partition.token_partition
    return _Task(tokens, group, scores, kernel)


def _attend_tokens(query: Queries, key: Keys, value: Values, sinks: Sinks | None, task: _Task) -> Output:
    value_dim, value = value.shape[-1], widen(value, key.shape[-1])
    latents = task.latents
    if task.kernel == FLEX:
        result = attend_flex(query, key, value, sinks, partition=task.partition, group=task.group, scores=task.scores)
    elif latents is None:
        result = _Attention.apply(query, key, value, sinks, None, task)
    else:
        result = _Attention.apply(query, key, value, sinks, latents.own, task, *latents.trained())
    narrow: Output = result[..., :value_dim]  # [local, heads, head_dim] -> [local, heads, value_dim]
    return narrow


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Queries, key: Keys, value: Keys, sinks: Sinks | None, own: Sent | None, task: _Task, *_: Weight
    ) -> Queries:
        query, key, value = (_make_dense(tensor) for tensor in (query, key, value))
        cache = current_cache()
        known = None if cache is None else cache.recall()
        if known is not None:
            out, logsum = known
            kept: list[Received] = []
        else:
            # With a cache the block runs again, and its second run has no blocks to keep.
            out, logsum, kept = _compute(query, key, value, sinks, own, task, keeps=cache is None)
        if cache is not None and known is None:
            cache.write(out, logsum)
        ctx.save_for_backward(query, key, value, sinks, own, out, logsum, *kept)
        ctx.task = task
        return out

    @staticmethod
    def backward(ctx: Any, grad: Queries) -> tuple[Weight | None, ...]:
        query, key, value, sinks, own, out, logsum, *blocks = ctx.saved_tensors
        task: _Task = ctx.task
        scores, schedule = task.scores, task.schedule(query.device)
        transfer = find_transfer(task.partition, schedule, task.group, query.device)
        fetches = transfer is not None and not blocks
        arriving = transfer.fetch(_pack(key, value, own)) if transfer is not None and fetches else iter(blocks)
        grad = _make_dense(grad)
        d_sinks = None if sinks is None else _differentiate_sinks(sinks, grad, out, logsum)
        if schedule.has_padding:
            # [local, heads] and [1, heads] -> [local + 1, heads]
            logsum = torch.cat([logsum, logsum.new_full((1, logsum.shape[1]), torch.inf)])
        inputs = BackwardInputs(query, grad, out, logsum)
        if transfer is None and not schedule.merges:
            d_query, d_key, d_value = differentiate_causal_tiles(schedule.causal_tiles, inputs, key, value, scores)
            return d_query, d_key, d_value, d_sinks, None, None, *_no_slopes(task)
        d_sum: Queries | None = None
        d_block: Block | None = None
        returning: Callable[[], Block] | None = None
        slopes: Sequence[Weight | None] = _no_slopes(task)
        if transfer is None or not blocks:  # own tiles hide the keys on their way
            d_sum, d_block = differentiate_own(schedule, inputs, key, value, scores, None)
        if transfer is not None:
            d_sum = torch.zeros_like(query, dtype=exact_dtype(query.dtype)) if d_sum is None else d_sum
            run = partial(differentiate_blocks, schedule.steps[1:], inputs, scores, d_sum)
            expansion = None if task.latents is None else Expansion(task.latents)
            found = run(arriving) if expansion is None else expansion.differentiate(arriving, run)
            returning = transfer.return_gradients(found, key.dtype)
            slopes = slopes if expansion is None else expansion.weight_gradients()
        if d_block is None:  # keys were kept: own tiles hide the gradients on their way back
            d_sum, d_block = differentiate_own(schedule, inputs, key, value, scores, d_sum)
        d_own: Sent | None = None
        if returning is not None and own is not None:
            d_own = returning().to(own.dtype)
        elif returning is not None:
            d_block += returning()
        # [local, both_heads, head_dim] -> twice [local, kv_heads, head_dim]
        d_key, d_value = d_block.to(query.dtype).chunk(2, dim=1)
        assert d_sum is not None
        return d_sum.to(query.dtype), d_key, d_value, d_sinks, d_own, None, *slopes


def _pack(key: Keys, value: Keys, own: Sent | None) -> Received:
    """What the others need of this rank's tokens."""
    # twice [local, kv_heads, head_dim] -> [local, both_heads, head_dim]
    return torch.cat([key, value], dim=1) if own is None else own


def _no_slopes(task: _Task) -> list[None]:
    return [] if task.latents is None else [None] * len(task.latents.trained())


def _compute(
    query: Queries, key: Keys, value: Keys, sinks: Sinks | None, own: Sent | None, task: _Task, *, keeps: bool
) -> tuple[Queries, Float[Tensor, "local heads"], list[Received]]:
    """Output, log-sum-exp and, where it ``keeps`` them, the received blocks."""
    partition, scores, schedule = task.partition, task.scores, task.schedule(query.device)
    transfer = find_transfer(partition, schedule, task.group, query.device)
    arriving = iter(()) if transfer is None else transfer.fetch(_pack(key, value, own))
    expand = (lambda block: block) if task.latents is None else task.latents.expand
    out, logsum = schedule.causal_tiles.attend(query, key, value, scores)
    if schedule.merges or sinks is not None:
        out = out.to(exact_dtype(query.dtype))
    keeps = keeps and partition.exchanges and bool(partition.traffic_tokens.sum(1).max() <= partition.local_tokens)
    kept = []
    for step, layers in enumerate(schedule.steps):
        # [received, both_heads, head_dim] -> twice [received, kv_heads, head_dim]
        keys, values = (key, value) if step == 0 else expand(block := next(arriving)).chunk(2, dim=1)
        if step and keeps:
            kept.append(block)
        for calls in layers:
            part = calls.attend(query, keys, values, scores)
            # [computed, heads, head_dim] of [local, heads, head_dim], [computed, heads] of [local, heads]
            out[calls.tokens], logsum[calls.tokens] = merge(out[calls.tokens], logsum[calls.tokens], part)
    if sinks is not None:
        out, logsum = sink(out, logsum, sinks)
    return out.to(query.dtype), logsum, kept


def _differentiate_sinks(sinks: Sinks, grad: Queries, out: Queries, logsum: Float[Tensor, "local heads"]) -> Sinks:
    """Gradients of the sinks: a sink takes a share from all values and gives none, so its gradient is minus that share
    of the output's gradient, summed over queries.
    """
    exact = exact_dtype(grad.dtype)
    share = (sinks.to(logsum.dtype) - logsum).exp()
    return -(share * (grad.to(exact) * out.to(exact)).sum(-1)).sum(0).to(sinks.dtype)


def _make_dense(tensor: Float[Tensor, "local _ head_dim"]) -> Float[Tensor, "local _ head_dim"]:
    """The tensor with a contiguous last dimension: kernels take any other strides."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()
