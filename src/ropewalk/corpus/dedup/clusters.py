"""Chooses which document of a group of copies stays: instruction before domain before general text, then the longest.

The choice is made twice, by the same rank. The first time is before tokenising, so that a section is cut only where
a document that stays contains it. The second time is after tokenising, on the stored columns. Only there is known what
``select`` leaves out (rank_selected.py).
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64, UInt64

from ropewalk.core.record import Role

SIMILAR = 0.8
"""From this similarity on, two documents are never on both sides of training and held-out text."""
_SIZE_BITS = 56
_PRIORITY: dict[Role, int] = {"instruction": 0, "domain": 1, "general": 2}


def leak_threshold(near_duplicates: Sequence[float | None]) -> float:
    """The similarity from which documents of these sources stay together on one side of training and held-out text.

    It applies whether copies are dropped or kept.
    """
    return min(SIMILAR, *(each or SIMILAR for each in near_duplicates))


def rank_sizes(role: Role, whole_bytes: Int64[np.ndarray, "documents"]) -> UInt64[np.ndarray, "documents"]:
    """The rank of each document of a role. Of copies the one with the lowest rank is kept, of equal ranks the first."""
    priority = np.uint64(_PRIORITY[role] << _SIZE_BITS)
    return np.asarray(priority + np.uint64((1 << _SIZE_BITS) - 1) - whole_bytes.astype(np.uint64))
