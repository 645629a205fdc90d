"""Make a partition's schedules and traffic before its step, in the thread that reads batches ahead.

If the first layer's call made them, the step would wait: for work on the host, and for copies of index tensors to the
device. The layers of earlier steps show what is needed: the kernel for each window. So only the first steps of a
process make schedules inside the step. The results do not depend on when they are made.
"""

from ropewalk.attention.choose_kernel import asked_schedules, schedule_tiles
from ropewalk.attention.exchange import plan_traffic
from ropewalk.partition.ulysses import AnyPartition, UlyssesPartition


def prepare_attention(partition: AnyPartition, context_rank: int) -> None:
    """Make what the layers of this process need of ``partition`` on one of its ranks, as far as it is known."""
    tokens, rank = partition, context_rank
    if isinstance(partition, UlyssesPartition):
        tokens, rank = partition.token_partition, context_rank // partition.ulysses_degree
    assert not isinstance(tokens, UlyssesPartition)
    for window, kernel, device in asked_schedules():
        seen = tokens.with_window(window)
        schedule_tiles(seen, rank, kernel, device)
        if seen.exchanges:
            plan_traffic(seen, rank, device)
