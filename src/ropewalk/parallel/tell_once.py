"""Under torchrun, one rank tells an error that several ranks meet: rank 0, or the first other one if it does not.

The ranks agree over torchrun's own store. No process group is needed, since most errors come before there is one.
"""

import time
from datetime import timedelta
from uuid import uuid4

import torch.distributed as dist

from ropewalk.parallel.torchrun import find_store_address, has_agent_store, is_first, is_started

_KEY = "ropewalk/tells"
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
    if not is_started() or not has_agent_store():
        return True
    try:
        return _claim()
    except (dist.DistError, OSError):  # torchrun itself has ended
        return True


def _claim() -> bool:
    host, port = find_store_address()
    timeout = timedelta(seconds=_JOIN_SECONDS)
    store = dist.TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=timeout)  # type: ignore[attr-defined]
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
