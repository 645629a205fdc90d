"""What one rank does for all, for as long as it takes: hours of preparing text, a model's files, a fresh process.

A message between ranks has a timeout of minutes, so nobody waits in one: whoever waits asks a store now and then. The
surprise is that under torchrun this also goes on before there is a process group: the first rank then starts ranks of
its own, and reads text in processes, as if it were alone, which it could not beside gloo's threads or a GPU in use.
"""

import time
from collections.abc import Callable
from datetime import timedelta
from itertools import count
from typing import Any

import torch.distributed as dist

from ropewalk.core.error import EXIT_CODE, RankError, UserError
from ropewalk.parallel.collective import rank_and_ranks, wait_for_ranks
from ropewalk.parallel.hang import has_place, open_place
from ropewalk.parallel.torchrun import by_itself, is_first, is_started, name_attempt

Store = Any
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.01, 1.0
_DONE = "done"
_JOIN_TIMEOUT = timedelta(minutes=2)
_INTERRUPTED = 130
_turns = count()
"""All ranks come to the same turns in the same order, so a turn's number is its name."""


def open_torchrun_store() -> Store:
    """torchrun's own store, under this attempt's prefix: it keeps what earlier attempts wrote."""
    store, _, _ = next(dist.rendezvous("env://", timeout=_JOIN_TIMEOUT))  # type: ignore[attr-defined]
    return dist.PrefixStore(name_attempt(), store)  # type: ignore[attr-defined]


def first_alone(work: Callable[[], None]) -> None:
    """Call ``work()`` on the first rank only, by itself; the others return when it has, or end with its exit code.

    Where torchrun did not start this process it is a plain call. A process group may stand, or not yet.
    """
    if not is_started():
        work()
        return
    store, key = _open_store(), _take_turn()
    if not is_first():
        ending = _wait_for(store, key)
        if ending != _DONE:
            raise SystemExit(int(ending))
        return
    try:
        with by_itself():
            work()
    except BaseException as error:
        store.set(key, str(_exit_code(error)))
        raise
    store.set(key, _DONE)


def first_does(work: Callable[[], None]) -> None:
    """Call ``work()`` on rank 0 of the group that stands, while others wait; if it fails, rank 0's end is theirs."""
    rank, ranks = rank_and_ranks()
    if ranks == 1:
        work()
        return
    store, key = _open_store(), _take_turn()
    if rank == 0:
        work()
        store.set(key, _DONE)
    else:
        _wait_for(store, key)
    wait_for_ranks()


_stores: list[Store] = []


def _open_store() -> Store:
    """Opened once in a process: torch's file store counts who opens it."""
    if not _stores:
        _stores.append(open_place() if has_place() else open_torchrun_store())
    return _stores[0]


def _take_turn() -> str:
    return f"first/{next(_turns)}"


def _wait_for(store: Store, key: str) -> str:
    pause_seconds = _FIRST_PAUSE_SECONDS
    try:
        while not store.check([key]):
            time.sleep(pause_seconds)
            pause_seconds = min(2 * pause_seconds, _LONGEST_PAUSE_SECONDS)
        found: bytes = store.get(key)
    except dist.DistError as error:
        raise RankError(f"rank 0 has gone while this rank waited for it: {error}") from None
    return found.decode()


def _exit_code(error: BaseException) -> int:
    if isinstance(error, UserError):
        return EXIT_CODE
    if isinstance(error, SystemExit) and isinstance(error.code, int):
        return error.code
    return _INTERRUPTED if isinstance(error, KeyboardInterrupt) else 1
