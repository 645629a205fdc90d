"""Read from the environment whether torchrun started this process, as which rank, and which GPUs it may see.

This is needed before torch is imported, so this file does not import torch.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

_by_itself: list[int] = []
"""The processes that work by themselves: this one, or the one that it was forked from."""


def is_started() -> bool:
    """Return whether torchrun started this process and it works together with the other ranks."""
    return "RANK" in os.environ and not _by_itself


def is_first() -> bool:
    """Return whether this process prints for all: it is the only process, or torchrun's rank 0."""
    return os.environ.get("RANK", "0") == "0"


def count_started() -> int:
    """Return the number of ranks that torchrun started."""
    return int(os.environ["WORLD_SIZE"])


def count_started_here() -> int:
    """Return the number of ranks that torchrun started on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"]))


def name_visible_gpus() -> str | None:
    """Return CUDA_VISIBLE_DEVICES: the GPUs that CUDA shows to this process; None means all of them."""
    return os.environ.get("CUDA_VISIBLE_DEVICES")


def is_by_itself() -> bool:
    """Return whether this process is in a block of ``by_itself``. The ranks that it forks there are not."""
    return os.getpid() in _by_itself


def find_store_address() -> tuple[str, int]:
    """Return host and port of the store of the ranks, of which this process is one."""
    return os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])


def has_agent_store() -> bool:
    """Return whether torchrun's agent holds the store; otherwise rank 0 would, once it joins the others."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def is_last_start() -> bool:
    """Return whether torchrun does not start the ranks of this machine again where this one fails."""
    count, most = (os.environ.get(f"TORCHELASTIC_{name}", "0") for name in ("RESTART_COUNT", "MAX_RESTARTS"))
    return int(count) >= int(most)


def hand_on_rank() -> dict[str, str]:
    """Return the environment of a child that is this rank in place of this process, which keeps the store open."""
    return {**os.environ, "TORCHELASTIC_USE_AGENT_STORE": "True"}


@contextmanager
def by_itself() -> Iterator[None]:
    """During the block, this process starts ranks of its own, as it would without torchrun."""
    _by_itself.append(os.getpid())
    try:
        yield
    finally:
        _by_itself.pop()
