"""Runs the work of a verb on ranks: forked ones here, or those that torchrun started.

The process of a verb imports no torch, so it stays small and survives the death of a rank. What a rank does is a
function of the verb's own file, which imports what needs torch inside. Only small facts are sent back to the parent.
"""

from collections.abc import Callable
from typing import Any

from ropewalk.parallel.torchrun import is_started
from ropewalk.plan.rank_setup import RankSetup


def on_ranks(
    function: Callable[..., Any], ranks: int, *args: Any, setup: RankSetup | None = None, threads: int | None = None
) -> Any:
    """Call ``function(*args)`` on ``ranks`` forked ranks, or in place under torchrun; return the result of rank 0.

    Without a ``setup`` there is no recipe that could ask for one. ``threads`` are those of each rank; by default
    torch's own number is divided, which counts two hardware threads of a core as one.
    """
    from ropewalk.parallel.launch import run_ranks

    return run_ranks(function, ranks, *args, setup=setup or RankSetup(), threads=threads)[0]


def alone(work: Callable[[], None]) -> None:
    """Call ``work()``. Under torchrun only the first rank calls it, and the others wait without a time limit."""
    if not is_started():
        work()
        return
    from ropewalk.parallel.rank_zero import first_alone

    first_alone(work)
