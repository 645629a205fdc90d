"""The keys that each rank needs from each other rank: only those that its tiles read.

A rank reads a key if it owns a later query of the same document, within the window if there is one. The nearest such
query reaches back farthest, so one look-up for each rank and segment is enough; pairs of segments are never listed.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from ropewalk.partition.segments import Segments


@dataclass(frozen=True, slots=True)
class NeededKeys:
    """``rank[i]`` needs the packed rows ``start[i]:stop[i]`` of piece ``segment[i]``; sorted by rank, then packed."""

    rank: Int64[np.ndarray, "needs"]
    segment: Int64[np.ndarray, "needs"]
    start: Int64[np.ndarray, "needs"]
    stop: Int64[np.ndarray, "needs"]


def find_needed_keys(segments: Segments, ranks: int, window: int | None = None) -> NeededKeys:
    """All keys that some rank needs and does not own."""
    count = len(segments.start)
    following = np.stack([_next_owned(segments, rank) for rank in range(ranks)])
    reader = np.minimum(following, count - 1)
    wanted = (following < count) & (segments.document[reader] == segments.document) & (segments.document >= 0)
    wanted &= segments.owner != np.arange(ranks)[:, None]
    rank, segment = np.nonzero(wanted)
    start, stop = segments.start[segment], segments.stop[segment]
    if window is not None:
        start = np.maximum(start, segments.start[reader[rank, segment]] - window + 1)
        seen = start < stop
        rank, segment, start, stop = rank[seen], segment[seen], start[seen], stop[seen]
    return NeededKeys(rank, segment, start, stop)


def _next_owned(segments: Segments, rank: int) -> np.ndarray:
    """For every piece the first later piece of ``rank``; the number of pieces where there is none."""
    mine = np.flatnonzero(segments.owner == rank)
    after = np.searchsorted(mine, np.arange(len(segments.owner)), side="right")
    return np.append(mine, len(segments.owner))[after]
