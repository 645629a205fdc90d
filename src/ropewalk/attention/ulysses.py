"""Attention where a team of ranks splits heads instead of rows (Ulysses), alone or inside a partition over teams.

Two swaps around attention: each member gives away its rows of the others' heads and gets the others' rows of its own,
and the output goes back the same way. In between nothing knows of heads. Where there are fewer key heads than members
they are repeated before the swap, just as often as needed, and autograd adds their gradients up again.
"""

from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from ropewalk.shape.shared_heads import count_shared_heads


def swap_in(rows: Float[Tensor, "local heads head_dim"], team: dist.ProcessGroup) -> Tensor:
    """This member's heads of all the team's rows: [team rows, heads / members, head_dim]. Differentiable."""
    swapped: Tensor = _SwapIn.apply(rows, team)
    return swapped


def swap_out(rows: Float[Tensor, "team_rows some_heads head_dim"], team: dist.ProcessGroup) -> Tensor:
    """All heads of this member's rows again; ``swap_in`` backwards."""
    swapped: Tensor = _SwapOut.apply(rows, team)
    return swapped


def repeat_kv(
    heads: int, kv: Float[Tensor, "local kv_heads head_dim"], members: int
) -> Float[Tensor, "local repeated head_dim"]:
    """Key or value heads repeated to the least number that ``members`` can share out beside their ``heads``.

    Raises UserError where the heads cannot be split.
    """
    needed = count_shared_heads(heads, kv.shape[1], members)
    return kv.repeat_interleave(needed // kv.shape[1], dim=1)


_teams: WeakKeyDictionary[dist.ProcessGroup, dict[int, tuple[dist.ProcessGroup | None, dist.ProcessGroup]]] = (
    WeakKeyDictionary()
)


def find_teams(group: dist.ProcessGroup, members: int) -> tuple[dist.ProcessGroup | None, dist.ProcessGroup]:
    """The group of this rank's likes in other teams (None if there is one team), and its own team of ``members``.

    Made at the first call, which every rank of ``group`` must make.
    """
    known = _teams.setdefault(group, {})
    if members not in known:
        known[members] = _make_teams(group, members)
    return known[members]


def _make_teams(group: dist.ProcessGroup, members: int) -> tuple[dist.ProcessGroup | None, dist.ProcessGroup]:
    ranks = dist.get_process_group_ranks(group)
    if members == len(ranks):
        return None, group
    mine = dist.get_rank(group)
    team, member = divmod(mine, members)
    both = ranks[member::members], ranks[team * members : (team + 1) * members]
    likes, own = (dist.new_group(each, use_local_synchronization=True) for each in both)
    return likes, own


class _SwapIn(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, team: dist.ProcessGroup) -> Tensor:
        ctx.team = team
        return _gather_rows(rows, team)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _gather_heads(grad, ctx.team), None


class _SwapOut(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, team: dist.ProcessGroup) -> Tensor:
        ctx.team = team
        return _gather_heads(rows, team)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _gather_rows(grad, ctx.team), None


def _gather_rows(rows: Tensor, team: dist.ProcessGroup) -> Tensor:
    members = dist.get_world_size(team)
    outgoing = rows.unflatten(1, (members, -1)).transpose(0, 1).contiguous()  # [member, local, heads, head_dim]
    incoming = torch.empty_like(outgoing)
    dist.all_to_all_single(incoming, outgoing, group=team)
    return incoming.flatten(0, 1)


def _gather_heads(rows: Tensor, team: dist.ProcessGroup) -> Tensor:
    members = dist.get_world_size(team)
    outgoing = rows.unflatten(0, (members, -1)).contiguous()
    incoming = torch.empty_like(outgoing)
    dist.all_to_all_single(incoming, outgoing, group=team)
    return incoming.transpose(0, 1).flatten(1, 2)
