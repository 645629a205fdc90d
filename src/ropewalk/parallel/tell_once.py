"""Under torchrun, one rank tells an error that several ranks meet: rank 0, or the first other one if it does not.

With ``--json``, one rank prints the one object on standard output: rank 0 its result, or a rank the error it ends with.
The ranks agree over torchrun's own store. No process group is needed, since most errors come before there is one.
"""

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import uuid4

import torch.distributed as dist

from ropewalk.parallel.torchrun import find_store_address, has_agent_store, is_first, is_last_start, is_started

_KEY = "ropewalk/tells"
_OUTPUT_KEY = "ropewalk/output"
_GRACE_SECONDS = 3.0
"""In which rank 0 tells an error that all ranks meet; another rank waits so long before it tells its own."""
_OLD_SECONDS = 60.0
"""A claim that is older belongs to an earlier start of the ranks, which torchrun's store outlives."""
_JOIN_SECONDS = 5.0
_TELL_SECONDS = 0.5
"""In which the rank that tells an error has printed it. As soon as one rank ends, torchrun ends the others."""


def is_teller() -> bool:
    """Whether this process tells the error that it ends with; it is asked once, at its end.

    Where the ranks share no store, every rank does: an error that is told twice is better than one that is not.
    """
    return not _has_shared_store() or _ask_store(_claim)


def claim_output(*, is_error: bool) -> bool:
    """Whether this process prints its result or its error as the one JSON object on torchrun's standard output.

    The first that asks does, in all starts of the ranks together. An error after which torchrun starts the ranks again
    is not the end, and leaves the object to a later start. Where the ranks share no store, every rank prints its own.
    """
    if not _has_shared_store():
        return True
    return (is_last_start() or not is_error) and _ask_store(_claim_object)


def _has_shared_store() -> bool:
    return is_started() and has_agent_store()


def _ask_store(claim: Callable[[Any], bool]) -> bool:
    host, port = find_store_address()
    timeout = timedelta(seconds=_JOIN_SECONDS)
    try:
        return claim(dist.TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=timeout))  # type: ignore[attr-defined]
    except (dist.DistError, OSError):  # torchrun itself has ended
        return True


def _claim_object(store: Any) -> bool:
    mine = uuid4().hex.encode()
    return bool(store.compare_set(_OUTPUT_KEY, "", mine.decode()) == mine)


def _claim(store: Any) -> bool:
    deadline = time.monotonic() + (0.0 if is_first() else _GRACE_SECONDS)
    while time.monotonic() < deadline and not (store.check([_KEY]) and _is_new(store.get(_KEY))):
        time.sleep(0.1)
    mine = f"{time.time()} {uuid4().hex}".encode()
    held = store.compare_set(_KEY, "", mine.decode())
    if held != mine and not _is_new(held):
        held = store.compare_set(_KEY, held.decode(), mine.decode())
    if held != mine:
        time.sleep(_TELL_SECONDS)
    return bool(held == mine)


def _is_new(claim: bytes) -> bool:
    return time.time() - float(claim.split()[0]) < _OLD_SECONDS
