"""Work that one rank does for all, of any duration: hours of text preparation, a model's files, a fresh process.

A message between ranks has a timeout of minutes. So the other ranks do not wait in a message; they check a store now
and then. Under torchrun this also works before a process group exists. Then the first rank can start ranks of its own,
and can read text in several processes, as if it were alone. Beside gloo's threads or a GPU in use it could not.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch.distributed as dist

from ropewalk.core.error import EXIT_CODE, RankError, UserError
from ropewalk.parallel.collective import rank_and_ranks, share_from_first, wait_for_ranks
from ropewalk.parallel.hang import has_place, open_place
from ropewalk.parallel.torchrun import by_itself, is_first, is_started, name_attempt

Store = Any
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.01, 1.0
_DONE = "done"
_JOIN_TIMEOUT = timedelta(minutes=2)
_INTERRUPTED = 130
_turns = count()
"""All ranks make the same calls in the same order, so a counter is enough to name a call in the store."""


def open_torchrun_store() -> Store:
    """Return torchrun's own store with this attempt's prefix: the store still holds entries of earlier attempts."""
    store, _, _ = next(dist.rendezvous("env://", timeout=_JOIN_TIMEOUT))  # type: ignore[attr-defined]
    return dist.PrefixStore(name_attempt(), store)  # type: ignore[attr-defined]


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


_stores: list[Store] = []


def _open_store() -> Store:
    """Return the store. It is opened only once in a process, because torch's file store counts its users."""
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
