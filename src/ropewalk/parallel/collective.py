"""Small collectives between ranks: sums and maxima of counts, one rank's value for all, all ranks' values in order.

All of them also work without a process group, as if there were one rank. So code that may run on a single process
needs no second path. The same holds in work that one rank does alone while the others wait (rank_zero.py): a message to
them would never be answered.
"""

from typing import Any, TypeVar

import torch.distributed as dist
from jaxtyping import Float64
from torch import Tensor

from ropewalk.parallel.torchrun import is_by_itself

Value = TypeVar("Value")


def rank_and_ranks() -> tuple[int, int]:
    """Return this rank and the number of ranks: (0, 1) outside ``run_ranks``."""
    return (dist.get_rank(), dist.get_world_size()) if _has_others() else (0, 1)


def _has_others() -> bool:
    return dist.is_initialized() and not is_by_itself()


def sum_over_ranks(values: Float64[Tensor, "..."], *, group: dist.ProcessGroup | None = None) -> Float64[Tensor, "..."]:
    """Return the element-wise sum over the ranks of ``group`` (default: all ranks); ``values`` is not changed.

    The type is float64, because counts beyond 2**24 do not fit float32. Pass sums and counts, and divide only once,
    after this call.
    """
    total = values.clone()
    if _has_others():
        dist.all_reduce(total, group=group)
    return total


def max_over_ranks(values: Float64[Tensor, "..."], *, group: dist.ProcessGroup | None = None) -> Float64[Tensor, "..."]:
    """Return the element-wise maximum over the ranks of ``group`` (default: all ranks)."""
    largest = values.clone()
    if _has_others():
        dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=group)
    return largest


def gather_values(value: Value, *, group: dist.ProcessGroup | None = None) -> list[Value]:
    """Return the values of all ranks, in the order of ranks, on every rank. For small plain data.

    ``group`` must hold all ranks. A second thread must pass a group of its own.
    """
    _, ranks = rank_and_ranks()
    if ranks == 1:
        return [value]
    values: list[Any] = [None] * ranks
    dist.all_gather_object(values, value, group=group)
    return values


def share_from_first(value: Value, *, group: dist.ProcessGroup | None = None) -> Value:
    """Return rank 0's value on every rank. For small plain data that only one rank should decide or read."""
    if rank_and_ranks()[1] == 1:
        return value
    box: list[Any] = [value]
    dist.broadcast_object_list(box, src=0, group=group)
    answer: Value = box[0]
    return answer


def wait_for_ranks() -> None:
    """Return when every rank has made this call."""
    if _has_others():
        dist.barrier()
