"""Of documents that copy each other, which one stays: instruction before domain before general text, then the longest.

Asked twice with one answer: before tokenising, so that a section is only cut where a document that stays has it, and
after, on the stored columns.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64, UInt32, UInt64

from ropewalk.core.record import Role
from ropewalk.corpus.dedup.minhash import group_similar

SIMILAR = 0.8
"""From here on two documents are never on both sides of training and held-out text."""
_PRIORITY: dict[Role, int] = {"instruction": 0, "domain": 1, "general": 2}


def leak_threshold(near_duplicates: Sequence[float | None]) -> float:
    """The similarity from which documents have one fate, whether copies are dropped or kept, of these sources."""
    return min(SIMILAR, *(each or SIMILAR for each in near_duplicates))


def rank_documents(
    roles: Sequence[Role], whole_bytes: Sequence[Int64[np.ndarray, "_"]]
) -> Int64[np.ndarray, "documents"]:
    """Each document's place in the order in which copies are kept, over all sources."""
    size = np.concatenate(whole_bytes)
    priority = np.repeat([_PRIORITY[role] for role in roles], [len(each) for each in whole_bytes])
    rank = np.empty(len(size), dtype=np.int64)
    rank[np.lexsort((-size, priority))] = np.arange(len(size))
    return rank


def group_equal(digests: UInt64[np.ndarray, "documents"]) -> Int64[np.ndarray, "documents"]:
    """For each document the first one with the same text."""
    _, first, inverse = np.unique(digests, return_index=True, return_inverse=True)
    return np.asarray(first[inverse], dtype=np.int64)


def group_copies(
    exact: Int64[np.ndarray, "documents"], signatures: UInt32[np.ndarray, "documents 128"], threshold: float
) -> Int64[np.ndarray, "documents"]:
    """For each document the first one of its group of near copies; equal texts are compared once."""
    firsts, inverse = np.unique(exact, return_inverse=True)
    return np.asarray(firsts[group_similar(signatures[firsts], threshold=threshold)][inverse], dtype=np.int64)


def find_best(
    group: Int64[np.ndarray, "documents"], rank: Int64[np.ndarray, "documents"]
) -> Int64[np.ndarray, "documents"]:
    """For each document the one of its group that stays."""
    order = np.argsort(rank)
    best = np.empty(len(group), dtype=np.int64)
    best[group[order[::-1]]] = order[::-1]  # the last write, of the lowest rank, stays
    return np.asarray(best[group])
