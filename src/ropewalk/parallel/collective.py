"""Small agreements between ranks: sums of counts, one rank's answer for all, everybody's figures in order.

All of them also work where no group stands, as if there were one rank, so code that may run alone has one path.
"""

from typing import Any, TypeVar

import torch
import torch.distributed as dist
from jaxtyping import Float64
from torch import Tensor

Value = TypeVar("Value")


def rank_and_ranks() -> tuple[int, int]:
    """This rank and how many there are: (0, 1) outside run_ranks."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def sum_over_ranks(values: Float64[Tensor, "..."], *, group: dist.ProcessGroup | None = None) -> Float64[Tensor, "..."]:
    """The element-wise sum over the ranks of ``group`` (all of them by default); ``values`` stays as it is.

    Float64, because counts beyond 2**24 do not fit float32. Sums and counts travel; divide once, afterwards.
    """
    total = values.clone()
    if dist.is_initialized():
        dist.all_reduce(total, group=group)
    return total


def max_over_ranks(values: Float64[Tensor, "..."], *, group: dist.ProcessGroup | None = None) -> Float64[Tensor, "..."]:
    """The element-wise maximum over the ranks of ``group``."""
    largest = values.clone()
    if dist.is_initialized():
        dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=group)
    return largest


def gather_values(value: Value, *, group: dist.ProcessGroup | None = None) -> list[Value]:
    """Every rank's value, in the order of ranks, on every rank. For small plain data.

    ``group`` holds all ranks too: another thread needs one of its own.
    """
    _, ranks = rank_and_ranks()
    if ranks == 1:
        return [value]
    values: list[Any] = [None] * ranks
    dist.all_gather_object(values, value, group=group)
    return values


def share_from_first(value: Value, *, group: dist.ProcessGroup | None = None) -> Value:
    """Rank 0's value, on every rank. For small plain data that only one rank should decide or read."""
    if rank_and_ranks()[1] == 1:
        return value
    box: list[Any] = [value]
    dist.broadcast_object_list(box, src=0, group=group)
    answer: Value = box[0]
    return answer


def wait_for_ranks() -> None:
    """Return when every rank has come here."""
    if dist.is_initialized():
        dist.barrier()


def all_agree(fine: bool) -> bool:
    """Whether every rank says yes: what one rank alone has seen go wrong must stop all of them."""
    return all(gather_values(fine))


def same_on_all_ranks(values: Float64[Tensor, "..."]) -> bool:
    """Whether all ranks hold the same numbers, bit for bit."""
    return bool(torch.equal(max_over_ranks(values), -max_over_ranks(-values)))
