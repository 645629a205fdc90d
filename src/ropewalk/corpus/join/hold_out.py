"""Documents that are joined are held out together, and with all near copies of any of them.

So no text on one side of training and held-out text is a part, or a copy of a part, of a document on the other side.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Int64, UInt64

from ropewalk.core.seed import seed_for
from ropewalk.corpus.join.places import Places


def number_groups(
    places: Sequence[Places | None], borders: Int64[np.ndarray, "_"], kept: Bool[np.ndarray, "documents"]
) -> Int64[np.ndarray, "documents"]:
    """For each document of all sources the number of the group that it is joined with; a number of its own where it
    is not joined, or is not ``kept``. ``borders`` are the first documents of the sources, and the end."""
    groups = np.arange(len(kept), dtype=np.int64)
    for place, (first, last) in zip(places, pairwise(borders.tolist()), strict=True):
        if place is not None:
            here = first + np.flatnonzero(kept[first:last])
            _, index, inverse = np.unique(place.group[here - first], return_index=True, return_inverse=True)
            groups[here] = here[index][inverse]
    return groups


def hold_together(
    leak: Int64[np.ndarray, "documents"],
    key: UInt64[np.ndarray, "documents"],
    digests: UInt64[np.ndarray, "documents"],
    groups: Int64[np.ndarray, "documents"],
    placed: Bool[np.ndarray, "documents"],
) -> tuple[Int64[np.ndarray, "documents"], UInt64[np.ndarray, "documents"]]:
    """``leak`` (the near copies of a document) and ``key`` (what draws held-out documents), with ``groups`` united.

    The key of a united group with a ``placed`` document, which is one of a source with joins, is drawn by the least
    digest of its texts, not by the order of reading. All other keys stay, so that a join in one source does not change
    what is held out of another.
    """
    united = unite(leak, groups)
    least = np.full(len(leak), np.iinfo(np.uint64).max, dtype=np.uint64)
    np.minimum.at(least, united, digests)
    joined = np.zeros(len(leak), dtype=bool)
    joined[united[placed]] = True
    drawn = key.copy()
    where = np.flatnonzero(joined[united])
    drawn[where] = [seed_for("held out", int(digest)) for digest in least[united[where]]]
    return united, drawn


def unite(
    first: Int64[np.ndarray, "documents"], second: Int64[np.ndarray, "documents"]
) -> Int64[np.ndarray, "documents"]:
    """Groups that hold together what two groupings hold together, named by their first document."""
    label = np.arange(len(first), dtype=np.int64)
    while True:
        before = label
        for groups in (first, second):
            least = np.full(len(first), len(first), dtype=np.int64)
            np.minimum.at(least, groups, label)
            label = least[groups]
        if (label == before).all():
            return label
