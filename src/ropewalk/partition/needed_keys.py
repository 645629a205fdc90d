"""The keys that each rank needs from each other rank: only those that its tiles read.

A rank reads a key if it owns a later query of the same document, within the window if there is one. The nearest such
query reaches back farthest, so one look-up for each rank and segment is enough; pairs of segments are never listed.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from ropewalk.partition.segments import Segments
from ropewalk.partition.token_ranges import TokenRanges


@dataclass(frozen=True, slots=True)
class NeededKeys:
    """``rank[i]`` needs the keys of the packed tokens ``ranges[i]``, which lie in ``segment[i]``.

    Sorted by rank, then by packed index.
    """

    rank: Int64[np.ndarray, "needs"]
    segment: Int64[np.ndarray, "needs"]
    ranges: TokenRanges

    def of_rank(self, rank: int) -> TokenRanges:
        """The packed tokens whose keys ``rank`` needs."""
        return self.ranges.where(self.rank == rank)


def find_needed_keys(segments: Segments, ranks: int, window: int | None = None) -> NeededKeys:
    """All keys that some rank needs and does not own."""
    count = len(segments.ranges)
    following = _next_owned(segments, ranks)
    reader = np.minimum(following, count - 1)
    wanted = (following < count) & (segments.document[reader] == segments.document) & (segments.document >= 0)
    wanted &= segments.owner != np.arange(ranks)[:, None]
    rank, segment = np.nonzero(wanted)
    start, stop = segments.ranges.start[segment], segments.ranges.stop[segment]
    if window is not None:
        start = np.maximum(start, segments.ranges.start[reader[rank, segment]] - window + 1)
        seen = start < stop
        rank, segment, start, stop = rank[seen], segment[seen], start[seen], stop[seen]
    return NeededKeys(rank, segment, TokenRanges(start, stop))


def count_traffic_tokens(segments: Segments, ranks: int, window: int | None = None) -> Int64[np.ndarray, "ranks ranks"]:
    """Tokens whose keys rank [i] must receive from rank [j]: only those that its tiles read."""
    needed_keys = find_needed_keys(segments, ranks, window)
    traffic = np.zeros((ranks, ranks), dtype=np.int64)
    np.add.at(traffic, (needed_keys.rank, segments.owner[needed_keys.segment]), needed_keys.ranges.length)
    return traffic


def _next_owned(segments: Segments, ranks: int) -> Int64[np.ndarray, "ranks segments"]:
    """For each rank and segment the rank's first later segment; the number of segments where there is none."""
    count = len(segments.owner)
    place = np.where(segments.owner == np.arange(ranks)[:, None], np.arange(count), count)
    following = np.full_like(place, count)
    # [ranks, segments] from the last segment to the second: the least place so far
    following[:, :-1] = np.minimum.accumulate(place[:, :0:-1], axis=1)[:, ::-1]
    return following
