"""Attention with heads cut over ranks (Ulysses), alone or inside a partition of tokens over Ulysses groups.

An all-to-all before attention gives each rank all tokens of its group for a part of the heads; another one after it
returns the output to the token owners. Where there are fewer key heads than ranks, key heads are repeated before the
all-to-all, as often as needed; autograd adds their gradients up.
"""

from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from ropewalk.attention.group_timeout import read_timeout
from ropewalk.shape.shared_heads import count_shared_heads

TokenShard = Float[Tensor, "local heads head_dim"]
"""A rank's own tokens with all heads."""
HeadShard = Float[Tensor, "group_tokens some_heads head_dim"]
"""All tokens of the rank's Ulysses group with heads / degree of the heads."""


def tokens_to_heads(own: TokenShard, ulysses_group: dist.ProcessGroup) -> HeadShard:
    """The group's tokens for a part of the heads, from own tokens with all heads. Differentiable."""
    exchanged: Tensor = _TokensToHeads.apply(own, ulysses_group)
    return exchanged


def heads_to_tokens(own: HeadShard, ulysses_group: dist.ProcessGroup) -> TokenShard:
    """The inverse of ``tokens_to_heads``. Differentiable."""
    exchanged: Tensor = _HeadsToTokens.apply(own, ulysses_group)
    return exchanged


def repeat_kv(
    heads: int, kv: Float[Tensor, "local kv_heads head_dim"], ulysses_degree: int
) -> Float[Tensor, "local repeated head_dim"]:
    """Key or value heads repeated to the least number that ``ulysses_degree`` ranks can share beside their ``heads``.

    Raises UserError where the heads cannot be split.
    """
    kept = count_shared_heads(heads, kv.shape[1], ulysses_degree)
    # [local, kv_heads, head_dim] -> [local, repeated, head_dim]
    return kv.repeat_interleave(kept // kv.shape[1], dim=1)


_groups: WeakKeyDictionary[dist.ProcessGroup, dict[int, tuple[dist.ProcessGroup | None, dist.ProcessGroup]]] = (
    WeakKeyDictionary()
)


def find_ulysses_groups(
    group: dist.ProcessGroup, ulysses_degree: int
) -> tuple[dist.ProcessGroup | None, dist.ProcessGroup]:
    """The ranks with the same place in other Ulysses groups (None if there is one group), and the own Ulysses group.

    Made at the first call, which every rank of ``group`` must make.
    """
    known = _groups.setdefault(group, {})
    if ulysses_degree not in known:
        known[ulysses_degree] = _make_ulysses_groups(group, ulysses_degree)
    return known[ulysses_degree]


def _make_ulysses_groups(
    group: dist.ProcessGroup, ulysses_degree: int
) -> tuple[dist.ProcessGroup | None, dist.ProcessGroup]:
    ranks = dist.get_process_group_ranks(group)
    if ulysses_degree == len(ranks):
        return None, group
    mine = dist.get_rank(group)
    ulysses_group, member = divmod(mine, ulysses_degree)
    both = ranks[member::ulysses_degree], ranks[ulysses_group * ulysses_degree : (ulysses_group + 1) * ulysses_degree]
    timeout = read_timeout(group)
    token_group, own = (dist.new_group(each, timeout=timeout, use_local_synchronization=True) for each in both)
    return token_group, own


class _TokensToHeads(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: TokenShard, ulysses_group: dist.ProcessGroup) -> HeadShard:
        ctx.ulysses_group = ulysses_group
        return _gather_tokens(own, ulysses_group)

    @staticmethod
    def backward(ctx: Any, grad: HeadShard) -> tuple[TokenShard, None]:
        return _gather_heads(grad, ctx.ulysses_group), None


class _HeadsToTokens(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: HeadShard, ulysses_group: dist.ProcessGroup) -> TokenShard:
        ctx.ulysses_group = ulysses_group
        return _gather_heads(own, ulysses_group)

    @staticmethod
    def backward(ctx: Any, grad: TokenShard) -> tuple[HeadShard, None]:
        return _gather_tokens(grad, ctx.ulysses_group), None


def _gather_tokens(own: TokenShard, ulysses_group: dist.ProcessGroup) -> HeadShard:
    ulysses_degree = dist.get_world_size(ulysses_group)
    # [local, heads, head_dim] -> [degree, local, heads / degree, head_dim]: a part for each rank of the group
    outgoing = own.unflatten(1, (ulysses_degree, -1)).transpose(0, 1).contiguous()
    incoming = torch.empty_like(outgoing)
    dist.all_to_all_single(incoming, outgoing, group=ulysses_group)
    return incoming.flatten(0, 1)


def _gather_heads(own: HeadShard, ulysses_group: dist.ProcessGroup) -> TokenShard:
    ulysses_degree = dist.get_world_size(ulysses_group)
    # [group_tokens, heads / degree, head_dim] -> [degree, local, heads / degree, head_dim]
    outgoing = own.unflatten(0, (ulysses_degree, -1)).contiguous()
    incoming = torch.empty_like(outgoing)
    dist.all_to_all_single(incoming, outgoing, group=ulysses_group)
    # -> [local, degree, heads / degree, head_dim] -> [local, heads, head_dim]
    return incoming.transpose(0, 1).flatten(1, 2)
