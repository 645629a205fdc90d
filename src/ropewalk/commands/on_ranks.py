"""Runs the work of a verb on ranks: forked ones here, or those that torchrun started.

A verb's file imports no torch, so that ``--help`` and ``check`` answer at once. A rank's work is a function of the
verb's own file, with the imports of torch's modules inside it. These modules take four seconds to import, most of it
torch and transformers. So the process that forks the ranks imports them once, before its first fork; each rank of each
part finds them there. Importing asks CUDA nothing (tests/parallel/test_device.py), so a rank may still use a GPU. Only
small facts are sent back to the parent.
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

    if not is_started():
        import_for_ranks()
    return run_ranks(function, ranks, *args, setup=setup or RankSetup(), threads=threads)[0]


def import_for_ranks() -> None:
    """Import what ranks use, with torch and transformers, into this process."""
    import ropewalk.evaluate.evaluate
    import ropewalk.model.export
    import ropewalk.train.stage  # noqa: F401 - for the ranks


def alone(work: Callable[[], None]) -> None:
    """Call ``work()``. Under torchrun only the first rank calls it, and the others wait without a time limit."""
    if not is_started():
        work()
        return
    from ropewalk.parallel.rank_zero import first_alone

    first_alone(work)
