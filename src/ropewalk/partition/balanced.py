"""Balanced chunks: equal chunks dealt one by one, each to the rank where it costs least.

The cost of giving a chunk to a rank is the work that rank has already, plus the key rows that it would have to
receive for it. So balance is traded against traffic with one number, the price of a row in attention pairs.
"""

import numpy as np

from ropewalk.partition.cost import PRICE, Price
from ropewalk.partition.pieces import Documents, Ownership

_CHUNKS_PER_RANK = 32
_SMALLEST_TOKENS = 64


def own_balanced(documents: Documents, ranks: int, *, price: Price = PRICE) -> Ownership:
    """Longest-work-first dealing of equal chunks; every rank gets the same number of them."""
    start = _cut_evenly(documents.tokens, ranks)
    stop = np.append(start[1:], documents.tokens)
    work, first = _measure(documents, start, stop)
    length = stop - start
    load = np.zeros(ranks)
    room = np.full(ranks, documents.tokens // ranks)
    held = np.zeros((ranks, len(start)), dtype=bool)
    owner = np.zeros(len(start), dtype=np.int64)
    for chunk in np.lexsort((start, -work, -length)).tolist():
        keys = slice(first[chunk], chunk)
        missing = ~held[:, keys] @ length[keys]
        score = np.where(room >= length[chunk], load + price.row_pairs * missing, np.inf)
        rank = int(score.argmin())
        owner[chunk] = rank
        load[rank] += work[chunk] + price.row_pairs * missing[rank]
        room[rank] -= length[chunk]
        held[rank, first[chunk] : chunk + 1] = True
    return Ownership(start, owner)


def _cut_evenly(tokens: int, ranks: int) -> np.ndarray:
    """Starts of equal chunks, as many for each rank; where tokens do not divide, one short chunk more for each."""
    share = tokens // ranks
    size = max(min(_SMALLEST_TOKENS, share), share // _CHUNKS_PER_RANK)
    count, left = divmod(share, size)
    lengths = np.repeat([size, left], [count * ranks, ranks if left else 0])
    start: np.ndarray = np.cumsum(lengths) - lengths
    return start


def _measure(documents: Documents, start: np.ndarray, stop: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Causal pairs of each chunk, and the first chunk whose keys it reads."""
    seen = np.arange(1, documents.tokens + 1) - np.repeat(documents.ranges.start, documents.ranges.length)
    seen[~np.repeat(documents.real, documents.ranges.length)] = 0
    total = np.append(0, np.cumsum(seen))
    index = np.searchsorted(documents.ranges.start, start, side="right") - 1
    begin = np.where(documents.real[index], documents.ranges.start[index], start)
    return total[stop] - total[start], np.searchsorted(start, begin, side="right") - 1
