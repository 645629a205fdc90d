"""Groups short texts, so that one call of numpy does the work of many: a call costs more than a poem's characters.

A long text is a group by itself. It can be a book, so no reference to it is kept here.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np
from jaxtyping import Int64

from ropewalk.core.owned import Owned

SHORT_CHARACTERS = 1 << 12
_GROUP_CHARACTERS = 1 << 16
_GROUP_TEXTS = 1 << 10
T = TypeVar("T")


def group_short(items: Iterable[T], count_characters: Callable[[T], int]) -> Iterator[list[T]]:
    """Yield all ``items`` in order, the short ones in groups. The receiver empties each list to free its items."""
    group: list[T] = []
    size = 0
    for item in items:
        characters, owned = count_characters(item), Owned(item)
        del item
        is_long = characters > SHORT_CHARACTERS
        if group and (is_long or size + characters > _GROUP_CHARACTERS or len(group) >= _GROUP_TEXTS):
            yield group
            group, size = [], 0
        group.append(owned.take())
        size += characters
        if is_long:
            yield group
            group, size = [], 0
    if group:
        yield group


def count_up(counts: Sequence[int] | Int64[np.ndarray, "texts"]) -> Int64[np.ndarray, "borders"]:
    """The border before each text and after the last one, where text ``i`` has ``counts[i]`` parts."""
    borders = np.zeros(len(counts) + 1, dtype=np.int64)
    np.cumsum(counts, out=borders[1:])
    return borders
