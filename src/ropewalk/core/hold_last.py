"""A list whose last entry holds inside a context: what a hook fills or follows for a while."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


@contextmanager
def hold_last(items: list[T], item: T) -> Iterator[T]:
    """``item`` is the last of ``items`` in this context."""
    items.append(item)
    try:
        yield item
    finally:
        items.pop()
