"""Which key rows each rank needs from each other rank: only the rows that its tiles read.

A rank reads a row if it owns a later query of the same document, within the window if there is one. The nearest such
query reaches back farthest, so one look-up for each rank and piece tells all, without listing pairs of pieces.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from ropewalk.partition.segments import Pieces


@dataclass(frozen=True, slots=True)
class Needs:
    """``rank[i]`` needs the packed rows ``start[i]:stop[i]`` of piece ``piece[i]``; sorted by rank, then packed."""

    rank: Int64[np.ndarray, "needs"]
    piece: Int64[np.ndarray, "needs"]
    start: Int64[np.ndarray, "needs"]
    stop: Int64[np.ndarray, "needs"]


def find_needs(pieces: Pieces, ranks: int, window: int | None = None) -> Needs:
    """All rows that some rank needs and does not own."""
    count = len(pieces.start)
    following = np.stack([_next_owned(pieces, rank) for rank in range(ranks)])
    reader = np.minimum(following, count - 1)
    wanted = (following < count) & (pieces.document[reader] == pieces.document) & (pieces.document >= 0)
    wanted &= pieces.owner != np.arange(ranks)[:, None]
    rank, piece = np.nonzero(wanted)
    start, stop = pieces.start[piece], pieces.stop[piece]
    if window is not None:
        start = np.maximum(start, pieces.start[reader[rank, piece]] - window + 1)
        seen = start < stop
        rank, piece, start, stop = rank[seen], piece[seen], start[seen], stop[seen]
    return Needs(rank, piece, start, stop)


def _next_owned(pieces: Pieces, rank: int) -> np.ndarray:
    """For every piece the first later piece of ``rank``; the number of pieces where there is none."""
    mine = np.flatnonzero(pieces.owner == rank)
    after = np.searchsorted(mine, np.arange(len(pieces.owner)), side="right")
    return np.append(mine, len(pieces.owner))[after]
