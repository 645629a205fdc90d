"""The segments of each document as a chain: what a recurrent layer needs of the segments before its own.

A recurrence runs through a document from its first token to its last. A rank needs the summary of every earlier
segment that others own, of each of its documents. These are the same (rank, segment) pairs as those of the keys that
attention needs without a window.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int64

from ropewalk.partition.needed_keys import find_needed_keys
from ropewalk.partition.segments import Segments


@dataclass(frozen=True, slots=True)
class Chains:
    """``before`` and ``after``: whether the segment has a neighbour in its document.

    ``reader[i]`` needs the summary of segment ``read[i]``; sorted by reader, then by segment.
    """

    before: Bool[np.ndarray, "segments"]
    after: Bool[np.ndarray, "segments"]
    reader: Int64[np.ndarray, "needs"]
    read: Int64[np.ndarray, "needs"]


def find_chains(segments: Segments, ranks: int) -> Chains:
    """The chains of all documents, and who needs which summary."""
    document = segments.document
    joined = (document[1:] == document[:-1]) & (document[1:] >= 0)
    needed = find_needed_keys(segments, ranks)
    return Chains(np.append(False, joined), np.append(joined, False), needed.rank, needed.segment)
