"""Make a partition's schedules and traffic before its step, in the thread that reads batches ahead.

Made at the first layer's call they would hold up the step: host work, and copies of index tensors to the device. What
layers will ask for is what they have asked for: the kernel for each window. So only a process's first steps make them
in the step itself. The results are the same at any time.
"""

from ropewalk.attention.choose_kernel import asked_schedules, schedule_tiles
from ropewalk.attention.exchange import plan_traffic
from ropewalk.partition.ulysses import AnyPartition, UlyssesPartition


def prepare_attention(partition: AnyPartition, context_rank: int) -> None:
    """Make what the layers of this process need of ``partition`` on one of its ranks, as far as it is known."""
    rows, rank = partition, context_rank
    if isinstance(partition, UlyssesPartition):
        rows, rank = partition.token_partition, context_rank // partition.ulysses_degree
    assert not isinstance(rows, UlyssesPartition)
    for window, kernel, device in asked_schedules():
        seen = rows.with_window(window)
        schedule_tiles(seen, rank, kernel, device)
        if seen.exchanges:
            plan_traffic(seen, rank, device)
