"""Chooses which document of a group of copies stays: instruction before domain before general text, then the longest.

The choice is made twice with the same result. The first time is before tokenising, so that a section is cut only where
a document that stays contains it. The second time is after tokenising, on the stored columns.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64, UInt32, UInt64

from ropewalk.core.record import Role
from ropewalk.corpus.dedup.minhash import group_similar

SIMILAR = 0.8
"""From this similarity on, two documents are never on both sides of training and held-out text."""
_PRIORITY: dict[Role, int] = {"instruction": 0, "domain": 1, "general": 2}


def leak_threshold(near_duplicates: Sequence[float | None]) -> float:
    """The similarity from which documents of these sources stay together on one side of training and held-out text.

    It applies whether copies are dropped or kept.
    """
    return min(SIMILAR, *(each or SIMILAR for each in near_duplicates))


def rank_documents(
    roles: Sequence[Role], whole_bytes: Sequence[Int64[np.ndarray, "_"]]
) -> Int64[np.ndarray, "documents"]:
    """The rank of each document, over all sources. Of copies, the one with the lowest rank is kept."""
    size = np.concatenate(whole_bytes)
    priority = np.repeat([_PRIORITY[role] for role in roles], [len(each) for each in whole_bytes])
    rank = np.empty(len(size), dtype=np.int64)
    rank[np.lexsort((-size, priority))] = np.arange(len(size))
    return rank


def group_equal(digests: UInt64[np.ndarray, "documents"]) -> Int64[np.ndarray, "documents"]:
    """For each document, the index of the first one with the same text."""
    _, first, inverse = np.unique(digests, return_index=True, return_inverse=True)
    return np.asarray(first[inverse], dtype=np.int64)


def group_copies(
    exact: Int64[np.ndarray, "documents"], signatures: UInt32[np.ndarray, "documents 128"], threshold: float
) -> Int64[np.ndarray, "documents"]:
    """For each document, the index of the first one of its group of near copies. Equal texts are compared only once."""
    firsts, inverse = np.unique(exact, return_inverse=True)
    return np.asarray(firsts[group_similar(signatures[firsts], threshold=threshold)][inverse], dtype=np.int64)


def find_best(
    group: Int64[np.ndarray, "documents"], rank: Int64[np.ndarray, "documents"]
) -> Int64[np.ndarray, "documents"]:
    """For each document, the index of the one of its group that stays."""
    order = np.argsort(rank)
    best = np.empty(len(group), dtype=np.int64)
    best[group[order[::-1]]] = order[::-1]  # the last write stays, and it has the lowest rank
    return np.asarray(best[group])
