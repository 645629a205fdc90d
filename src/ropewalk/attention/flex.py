"""Attention through torch's FlexAttention, for GPUs: it supports soft caps and score biases.

The keys of a query are one range of its rank's gathered keys: from the first token of the document, or of the
window, to the query itself. So block masks follow from the range borders alone, without a look at any pair. On a CPU
FlexAttention has no backward and makes the matrix of all pairs; it serves tests there, and ``require_gpu`` refuses
to train with it.
"""

from collections.abc import Iterator
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Bool, Float, Int, Int32, Int64
from torch import Tensor
from torch.nn.attention.flex_attention import AuxRequest, BlockMask, flex_attention

from ropewalk.attention.bias import Alibi, Fire, Index, Score, ScoreMod
from ropewalk.attention.copy_to_device import copy_to_device
from ropewalk.attention.exchange import Block, fetch_gathered, plan_traffic, return_gathered
from ropewalk.attention.gathered_keys import GatheredKeys
from ropewalk.attention.merge import sink
from ropewalk.attention.schedule import Scores
from ropewalk.attention.value_width import widen
from ropewalk.core.error import UserError
from ropewalk.partition.partition import Partition

BLOCK_TOKENS = 128
BlockLists = tuple[Int32[Tensor, "1 1 blocks"], Int32[Tensor, "1 1 blocks key_blocks"]]

_masks: WeakKeyDictionary[Partition, dict[int, BlockMask]] = WeakKeyDictionary()


def attend_flex(
    query: Float[Tensor, "local heads head_dim"],
    key: Float[Tensor, "local kv_heads head_dim"],
    value: Float[Tensor, "local kv_heads head_dim"],
    sinks: Float[Tensor, "heads"] | None = None,
    *,
    partition: Partition,
    group: dist.ProcessGroup | None,
    scores: Scores,
    score_mod: ScoreMod | None = None,
) -> Float[Tensor, "local heads head_dim"]:
    """Causal attention within documents; padding gets zeros. ``score_mod`` is FlexAttention's, on gathered keys.

    See context_parallel.attend for the rest.
    """
    rank = 0 if group is None else dist.get_rank(group)
    # twice [local, kv_heads, head_dim] -> [local, both_heads, head_dim] -> [gathered, both_heads, head_dim]
    # -> twice [gathered, kv_heads, head_dim]
    key, value = _Gather.apply(torch.cat([key, value], dim=1), partition, group).chunk(2, dim=1)
    # [1, heads, tokens, head_dim] each
    out, aux = _kernel(query.device.type)(
        *(tensor.transpose(0, 1)[None] for tensor in (query, key, value)),
        score_mod=score_mod if scores.soft_cap is None else _bend(scores.soft_cap, score_mod),
        block_mask=_find_mask(partition, rank, query.device),
        scale=scores.scale,
        enable_gqa=query.shape[1] != key.shape[1],
        return_aux=AuxRequest(lse=True),
    )
    result: Tensor = out[0].transpose(0, 1)  # [local, heads, head_dim]
    if sinks is not None:
        result, _ = sink(result, aux.lse[0].T, sinks)
    if (partition.segments.document < 0).any():
        real = torch.from_numpy(partition.document_tokens(rank) > 0).to(query.device)
        result = result * real[:, None, None]
    return result.to(query.dtype)


def attend_biased(
    query: Float[Tensor, "tokens heads head_dim"],
    key: Float[Tensor, "tokens kv_heads head_dim"],
    value: Float[Tensor, "tokens kv_heads head_dim"],
    *,
    bias: Alibi | Fire,
    positions: Int[Tensor, "tokens"],
    partition: Partition,
    scale: float | None = None,
) -> Float[Tensor, "tokens heads head_dim"]:
    """``attend_flex`` with ``bias`` added to the scaled scores.

    ``positions`` are those in the document that the model was given, so distances are skip-wise where they are. Raises
    UserError for a partition over several ranks.
    """
    if partition.ranks > 1:
        raise UserError(
            "a bias needs whole sequences on a rank",
            where="parallel.context_parallel",
            why=f"sequences are divided over {partition.ranks} ranks, but a bias can use only the positions of the "
            "keys on its own rank",
            fix="use parallel.context_parallel=1, or layers without a bias",
        )
    exact = torch.promote_types(query.dtype, torch.float32)
    scores = Scores(query.shape[-1] ** -0.5 if scale is None else scale)
    mod = bias.score_mod(positions, exact)
    wide = widen(value, key.shape[-1])
    out = attend_flex(query, key, wide, partition=partition, group=None, scores=scores, score_mod=mod)
    return out[..., : value.shape[-1]]  # [tokens, heads, head_dim] -> [tokens, heads, value_dim]


def require_gpu(device: torch.device) -> None:
    """Raise UserError where a model with a bias would not run: on a ``device`` that is no GPU."""
    if device.type != "cuda":
        raise UserError(
            "a bias on attention scores needs a GPU",
            where="layers: bias",
            why="it uses FlexAttention, which has no backward on a CPU, and this rank runs on a CPU",
            fix="use a machine with a GPU, or remove bias from layers",
        )


def make_block_mask(
    first: Int64[np.ndarray, "queries"], last: Int64[np.ndarray, "queries"], *, keys: int, device: torch.device
) -> BlockMask:
    """Queries that see the keys from ``first`` to ``last``, both rising with the query, in blocks of 128 x 128."""
    queries = len(first)
    starts, other = np.arange(0, queries, BLOCK_TOKENS), np.arange(-(-keys // BLOCK_TOKENS)) * BLOCK_TOKENS
    stop = np.minimum(other + BLOCK_TOKENS, keys) - 1
    lowest, highest = (reduce.reduceat(first, starts)[:, None] for reduce in (np.minimum, np.maximum))
    soonest, farthest = (reduce.reduceat(last, starts)[:, None] for reduce in (np.minimum, np.maximum))
    seen = (other <= farthest) & (stop >= lowest)
    whole = (other >= highest) & (stop <= soonest)
    lower, upper = (copy_to_device(bound, device) for bound in (first, last))

    def sees(batch: Index, head: Index, query: Index, key: Index) -> Bool[Tensor, "..."]:
        return (key <= upper[query]) & (key >= lower[query])

    return BlockMask.from_kv_blocks(
        *_list_blocks(seen & ~whole, device),
        *_list_blocks(seen & whole, device),
        BLOCK_SIZE=BLOCK_TOKENS,
        mask_mod=sees,
        seq_lengths=(queries, keys),
    )


class _Gather(torch.autograd.Function):
    """A rank's gathered keys out of everybody's own."""

    @staticmethod
    def forward(ctx: Any, own: Block, partition: Partition, group: dist.ProcessGroup | None) -> Block:
        ctx.settings = partition, group
        if not partition.exchanges:
            return own.view_as(own)
        assert group is not None
        return next(fetch_gathered(own, plan_traffic(partition, dist.get_rank(group), own.device), group))

    @staticmethod
    def backward(ctx: Any, grad: Block) -> tuple[Block, None, None]:
        partition, group = ctx.settings
        if not partition.exchanges:
            return grad, None, None
        exact = torch.promote_types(grad.dtype, torch.float32)
        gradients: Iterator[Block] = iter([grad.to(exact)])
        traffic = plan_traffic(partition, dist.get_rank(group), grad.device)
        return return_gathered(gradients, traffic, group, grad.dtype)().to(grad.dtype), None, None


def _find_mask(partition: Partition, rank: int, device: torch.device) -> BlockMask:
    of_partition = _masks.setdefault(partition, {})
    if rank not in of_partition:
        gathered = GatheredKeys(partition, rank)
        of_partition[rank] = make_block_mask(*gathered.find_bounds(), keys=len(gathered.packed), device=device)
    return of_partition[rank]


def _bend(soft_cap: float, score_mod: ScoreMod | None) -> ScoreMod:
    """FlexAttention's way of a soft cap; what ``score_mod`` adds is added before."""

    def bend(score: Score, batch: Index, head: Index, query: Index, key: Index) -> Score:
        inputs = score if score_mod is None else score_mod(score, batch, head, query, key)
        return soft_cap * torch.tanh(inputs / soft_cap)

    return bend


def _list_blocks(chosen: Bool[np.ndarray, "blocks key_blocks"], device: torch.device) -> BlockLists:
    """How many blocks each block of queries has, and their numbers, those that it has first."""
    order = np.argsort(~chosen, axis=1, kind="stable").astype(np.int32)
    count = chosen.sum(axis=1, dtype=np.int32)
    return copy_to_device(count, device)[None, None], copy_to_device(order, device)[None, None]


@cache
def _kernel(device_type: str) -> Any:
    return torch.compile(flex_attention) if device_type == "cuda" else flex_attention
