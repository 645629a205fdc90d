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

from ropewalk.shape.shared_heads import count_shared_heads


def tokens_to_heads(rows: Float[Tensor, "local heads head_dim"], ulysses_group: dist.ProcessGroup) -> Tensor:
    """[local, heads, head_dim] -> [group tokens, heads / degree, head_dim]: the group's tokens, a part of the heads.

    Differentiable.
    """
    swapped: Tensor = _TokensToHeads.apply(rows, ulysses_group)
    return swapped


def heads_to_tokens(
    rows: Float[Tensor, "group_tokens some_heads head_dim"], ulysses_group: dist.ProcessGroup
) -> Tensor:
    """[group tokens, heads / degree, head_dim] -> [local, heads, head_dim]; the inverse of ``tokens_to_heads``."""
    swapped: Tensor = _HeadsToTokens.apply(rows, ulysses_group)
    return swapped


def repeat_kv(
    heads: int, kv: Float[Tensor, "local kv_heads head_dim"], ulysses_degree: int
) -> Float[Tensor, "local repeated head_dim"]:
    """Key or value heads repeated to the least number that ``ulysses_degree`` ranks can share beside their ``heads``.

    Raises UserError where the heads cannot be split.
    """
    needed = count_shared_heads(heads, kv.shape[1], ulysses_degree)
    return kv.repeat_interleave(needed // kv.shape[1], dim=1)


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
    token_group, own = (dist.new_group(each, use_local_synchronization=True) for each in both)
    return token_group, own


class _TokensToHeads(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, ulysses_group: dist.ProcessGroup) -> Tensor:
        ctx.ulysses_group = ulysses_group
        return _gather_rows(rows, ulysses_group)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _gather_heads(grad, ctx.ulysses_group), None


class _HeadsToTokens(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, ulysses_group: dist.ProcessGroup) -> Tensor:
        ctx.ulysses_group = ulysses_group
        return _gather_heads(rows, ulysses_group)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _gather_rows(grad, ctx.ulysses_group), None


def _gather_rows(rows: Tensor, ulysses_group: dist.ProcessGroup) -> Tensor:
    ulysses_degree = dist.get_world_size(ulysses_group)
    outgoing = rows.unflatten(1, (ulysses_degree, -1)).transpose(0, 1).contiguous()  # [member, local, heads, head_dim]
    incoming = torch.empty_like(outgoing)
    dist.all_to_all_single(incoming, outgoing, group=ulysses_group)
    return incoming.flatten(0, 1)


def _gather_heads(rows: Tensor, ulysses_group: dist.ProcessGroup) -> Tensor:
    ulysses_degree = dist.get_world_size(ulysses_group)
    outgoing = rows.unflatten(0, (ulysses_degree, -1)).contiguous()
    incoming = torch.empty_like(outgoing)
    dist.all_to_all_single(incoming, outgoing, group=ulysses_group)
    return incoming.transpose(0, 1).flatten(1, 2)
