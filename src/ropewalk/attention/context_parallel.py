"""Attention over packed documents that several ranks share: partition x exchange x kernel, forward and backward.

Every rank calls it with its own rows. Keys of other ranks arrive while the rank computes on its own; partial results
are merged by log-sum-exp. The backward recomputes nothing but scores: each tile's gradients follow from the global
output and log-sum-exp. Received rows are kept for it where no rank gets more than it owns, else they are fetched again.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from ropewalk.attention.exchange import EXCHANGES, Block, plan_traffic
from ropewalk.attention.heads import find_teams, repeat_kv, swap_in, swap_out
from ropewalk.attention.kernel import attend_tiles, attend_tiles_backward
from ropewalk.attention.merge import merge
from ropewalk.attention.schedule import Call, Calls, schedule_tiles
from ropewalk.partition.heads import AnyPartition
from ropewalk.partition.partition import Partition


def attend(
    query: Float[Tensor, "local heads head_dim"],
    key: Float[Tensor, "local kv_heads head_dim"],
    value: Float[Tensor, "local kv_heads head_dim"],
    *,
    partition: AnyPartition,
    group: dist.ProcessGroup | None,
    scale: float | None = None,
) -> Float[Tensor, "local heads head_dim"]:
    """Causal attention within documents for this rank's tokens, in the partition's local order.

    Differentiable and deterministic, in any floating dtype; padding gets zeros. ``scale`` multiplies the scores,
    1 / sqrt(head_dim) by default. ``group`` holds the partition's ranks in order; None for a partition over one rank.
    """
    assert partition.ranks == (1 if group is None else dist.get_world_size(group)), "the group's ranks share the rows"
    assert len(query) == partition.local_tokens, "a rank brings the rows that it owns"
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    if isinstance(partition, Partition):
        result: Tensor = _Attention.apply(query, key, value, partition, group, scale)
        return result
    assert group is not None
    likes, team = find_teams(group, partition.head_ranks)
    heads, members = query.shape[1], partition.head_ranks
    rows = (query, repeat_kv(heads, key, members), repeat_kv(heads, value, members))
    swapped = (swap_in(each, team) for each in rows)
    return swap_out(_Attention.apply(*swapped, partition.by_rows, likes, scale), team)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        partition: Partition,
        group: dist.ProcessGroup | None,
        scale: float,
    ) -> Tensor:
        query, key, value = (_rows_last(tensor) for tensor in (query, key, value))
        arriving = _fetch(key, value, partition, group)
        schedule = schedule_tiles(partition, _rank(group))
        out, logsum = _compute(schedule.triangles, query, key, value, scale)
        if schedule.merges:
            out = out.to(_exact(query.dtype))
        keeps = partition.rows.sum(1).max() <= partition.local_tokens
        kept = []
        for step, layers in enumerate(schedule.steps):
            keys, values = (key, value) if step == 0 else (block := next(arriving)).chunk(2, dim=1)
            if step and keeps:
                kept.append(block)
            for calls in layers:
                part = _compute(calls, query, keys, values, scale)
                out[calls.rows], logsum[calls.rows] = merge(out[calls.rows], logsum[calls.rows], part)
        out = out.to(query.dtype)
        ctx.save_for_backward(query, key, value, out, logsum, *kept)
        ctx.settings = partition, group, scale
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out, logsum, *blocks = ctx.saved_tensors
        partition, group, scale = ctx.settings
        schedule = schedule_tiles(partition, _rank(group))
        arriving = iter(blocks) if blocks else _fetch(key, value, partition, group)
        if schedule.pads:
            logsum = torch.cat([logsum, logsum.new_full((1, logsum.shape[1]), torch.inf)])
        work = _Backward(query, _rows_last(grad), out, logsum, scale)
        d_query, d_key, d_value = work.differentiate_triangles(schedule.triangles, key, value)
        if schedule.merges or partition.exchanges:
            exact = _exact(query.dtype)
            d_query, d_block = d_query.to(exact), torch.cat([d_key, d_value], dim=1).to(exact)
            for calls in schedule.steps[0]:
                work.accumulate(calls, torch.cat([key, value], dim=1), d_query, d_block)
            if partition.exchanges:
                gradients = work.differentiate_blocks(schedule.steps[1:], arriving, d_query)
                traffic = plan_traffic(partition, schedule.rank)
                d_block += EXCHANGES[partition.exchange].give_back(gradients, traffic, group)
            d_key, d_value = d_block.to(query.dtype).chunk(2, dim=1)
        return d_query.to(query.dtype), d_key, d_value, None, None, None


@dataclass(frozen=True, slots=True)
class _Backward:
    """What the gradients of every tile need of all of its query's tiles together."""

    query: Tensor
    grad: Tensor
    out: Tensor
    logsum: Tensor
    scale: float

    def differentiate(self, call: Call, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of one call: [tiles, queries, ...], and twice [tiles, keys, ...]."""
        return attend_tiles_backward(
            call.query.take(self.grad),
            call.query.take(self.query),
            call.key.take(key),
            call.key.take(value),
            out=call.query.take(self.out),
            logsum=call.logsum.take(self.logsum),
            sight=call.sight,
            scale=self.scale,
        )

    def differentiate_triangles(self, calls: Calls, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of all own rows: triangles share neither queries nor keys."""
        if not calls.calls:
            return torch.zeros_like(self.query), torch.zeros_like(key), torch.zeros_like(value)
        of_calls = [self.differentiate(call, key, value) for call in calls.calls]
        d_query, d_key, d_value = (_assemble(calls, [each[i] for each in of_calls]) for i in range(3))
        return d_query, d_key, d_value

    def differentiate_blocks(
        self, steps: Sequence[Sequence[Calls]], blocks: Iterator[Block], d_query: Tensor
    ) -> Iterator[Block]:
        """Gradients of the received blocks one after the other; those of the queries are added to ``d_query``."""
        for layers, block in zip(steps, blocks, strict=True):
            d_block = torch.zeros_like(block, dtype=d_query.dtype)
            for calls in layers:
                self.accumulate(calls, block, d_query, d_block)
            yield d_block

    def accumulate(self, calls: Calls, block: Block, d_query: Tensor, d_block: Block) -> None:
        """Add the gradients of ``calls`` on one block of keys, in the order of calls and tiles."""
        d_queries = []
        for call in calls.calls:
            d_rows, d_key, d_value = self.differentiate(call, *block.chunk(2, dim=1))
            d_queries.append(d_rows)
            call.key.add(d_block, torch.cat([d_key, d_value], dim=2))
        d_query[calls.rows] += _assemble(calls, d_queries)


def _compute(calls: Calls, query: Tensor, key: Tensor, value: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Output and log-sum-exp of the rows that ``calls`` are about."""
    outs, logsums = [], []
    for call in calls.calls:
        out, logsum = attend_tiles(
            call.query.take(query), call.key.take(key), call.key.take(value), sight=call.sight, scale=scale
        )
        outs.append(out)
        logsums.append(logsum)
    if not outs:
        return torch.zeros_like(query), query.new_zeros(query.shape[:2], dtype=_exact(query.dtype))
    return _assemble(calls, outs), _assemble(calls, logsums)


def _assemble(calls: Calls, parts: list[Tensor]) -> Tensor:
    """Results of the calls, [tiles, length, ...] each, as rows in the order of ``calls``."""
    flat = [part.flatten(0, 1) for part in parts]
    if calls.home is None:
        return flat[0] if len(flat) == 1 else torch.cat(flat)
    return torch.cat([*flat, flat[0].new_zeros(1, *flat[0].shape[1:])]).index_select(0, calls.home)


def _fetch(key: Tensor, value: Tensor, partition: Partition, group: dist.ProcessGroup | None) -> Iterator[Block]:
    if not partition.exchanges:
        return iter(())
    assert group is not None
    traffic = plan_traffic(partition, dist.get_rank(group))
    return EXCHANGES[partition.exchange].fetch(torch.cat([key, value], dim=1), traffic, group)


def _rank(group: dist.ProcessGroup | None) -> int:
    return 0 if group is None else dist.get_rank(group)


def _exact(dtype: torch.dtype) -> torch.dtype:
    """What partial results are summed in: float32 or better."""
    return torch.promote_types(dtype, torch.float32)


def _rows_last(tensor: Tensor) -> Tensor:
    """The kernel takes any strides but that of the last dimension."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()
