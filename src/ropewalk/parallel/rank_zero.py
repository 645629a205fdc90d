"""Work that one rank does for all, of any duration: hours of text preparation, a model's files, a fresh process.

A message between ranks has a timeout of minutes. So the other ranks do not wait in a message; they check a store now
and then. Under torchrun this also works before a process group exists. Then the first rank can start ranks of its own,
and can read text in several processes, as if it were alone. Beside gloo's threads or a GPU in use it could not.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

import torch.distributed as dist

from ropewalk.core.error import EXIT_CODE, RankError, UserError
from ropewalk.parallel.collective import rank_and_ranks, share_from_first, wait_for_ranks
from ropewalk.parallel.hang import has_place, open_place
from ropewalk.parallel.torchrun import by_itself, is_first, is_started

Store = Any
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.01, 1.0
_DONE = "done"
_JOIN_TIMEOUT = timedelta(minutes=2)
_START_SECONDS = 600.0
"""In which every rank must have begun: a first import over a shared file system takes minutes."""
_INTERRUPTED = 130
_turns = count()
"""All ranks make the same calls in the same order, so a counter is enough to name a call in the store."""


def open_torchrun_store() -> Store:
    """Return torchrun's own store with this attempt's prefix: the store still holds entries of earlier attempts.

    A process' first call returns when all ranks have made theirs. Raises RankError where one does not in ten minutes.
    """
    store, rank, ranks = next(dist.rendezvous("env://", timeout=_JOIN_TIMEOUT))  # type: ignore[attr-defined]
    if not _attempts:
        _attempts.append(agree_on_attempt(store, rank, ranks))
    return dist.PrefixStore(_attempts[0], store)  # type: ignore[attr-defined]


_attempts: list[str] = []


def agree_on_attempt(store: Store, rank: int, ranks: int, *, patience_seconds: float = _START_SECONDS) -> str:
    """Return a name for this start of the ranks: the same on all of them, and another than that of any earlier start.

    torchrun's count of restarts is no such name: a machine whose ranks were sound does not count the restart. So each
    rank asks by a word of its own, which no earlier start has used, and rank 0 answers to that word. Raises RankError
    on rank 0 where a rank does not ask within ``patience_seconds``.
    """
    word = uuid4().hex
    if rank:
        store.set(f"asks/{rank}", word)
        name = _wait_for(store, f"answers/{word}")
        store.set(f"{name}/heard/{rank}", _DONE)
        return name
    missing, deadline = set(range(1, ranks)), time.monotonic() + patience_seconds
    while missing:
        if time.monotonic() > deadline:
            raise RankError(
                f"ranks that have not begun within {patience_seconds:.0f} s: {', '.join(map(str, sorted(missing)))}"
            )
        for each in missing:
            if store.check([f"asks/{each}"]):  # again in each round: the first word may be that of an earlier start
                store.set(f"answers/{store.get(f'asks/{each}').decode()}", word)
        time.sleep(_FIRST_PAUSE_SECONDS)
        missing = {each for each in missing if not store.check([f"{word}/heard/{each}"])}
    return word


def first_alone(work: Callable[[], None]) -> None:
    """Call ``work()`` on the first rank only. The others return when it is done, or end with that rank's exit code.

    During the call the first rank acts as if torchrun had not started it. Without torchrun this is a plain call. A
    process group may exist, but need not.
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
    """Call ``work()`` on rank 0 of the process group while the other ranks wait.

    If it fails, rank 0 ends, and the other ranks end because of that.
    """
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


@contextmanager
def scratch_folder(prefix: str) -> Iterator[Path]:
    """Yield one temporary folder to all ranks of a machine; it is removed when all of them have left the block."""
    with TemporaryDirectory(prefix=prefix) if rank_and_ranks()[0] == 0 else nullcontext("") as made:
        yield Path(share_from_first(made))
        wait_for_ranks()


_stores: dict[int, Store] = {}
"""By process: a forked rank has its parent's entry, whose connection belongs to the parent."""


def _open_store() -> Store:
    """Return the store. It is opened only once in a process, because torch's file store counts its users."""
    process = os.getpid()
    if process not in _stores:
        _stores[process] = open_place() if has_place() else open_torchrun_store()
    return _stores[process]


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
        raise RankError(f"rank 0 ended while this rank waited for it: {error}") from None
    return found.decode()


def _exit_code(error: BaseException) -> int:
    if isinstance(error, UserError):
        return EXIT_CODE
    if isinstance(error, SystemExit) and isinstance(error.code, int):
        return error.code
    return _INTERRUPTED if isinstance(error, KeyboardInterrupt) else 1
