"""Whether torchrun started this process, and as which one: asked before torch is imported."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

_by_itself: list[bool] = []


def is_started() -> bool:
    """Whether torchrun started this process, and it is to go along with the others."""
    return "RANK" in os.environ and not _by_itself


def is_first() -> bool:
    """Whether this process speaks for all: the only one, or torchrun's rank 0."""
    return os.environ.get("RANK", "0") == "0"


def count_started() -> int:
    """How many ranks torchrun started."""
    return int(os.environ["WORLD_SIZE"])


def name_attempt() -> str:
    """torchrun's start of the ranks, which it may repeat."""
    return f"ropewalk attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"


@contextmanager
def by_itself() -> Iterator[None]:
    """For the length of the block this process starts ranks of its own, as it would without torchrun."""
    _by_itself.append(True)
    try:
        yield
    finally:
        _by_itself.pop()
