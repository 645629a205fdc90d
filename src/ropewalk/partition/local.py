"""The local layout: a short document stays whole on one rank, a long one is spread over all ranks.

Three steps: long documents in zigzag; the largest others one by one to the rank with the least work; the many small
ones into the space that is left. Ranks must end with equal tokens, so the last documents of a rank are chosen to
fill its space exactly (a subset sum over a few dozen). A document is cut only where no subset fits.
"""

from collections import deque
from itertools import islice

import numpy as np
from jaxtyping import Int64

from ropewalk.partition.segments import Ownership, PackedDocuments
from ropewalk.partition.token_ranges import TokenRanges
from ropewalk.partition.zigzag import cut_zigzag

_ASSIGNED_PER_RANK = 16
_CANDIDATES = 48
_Range = tuple[int, int]
_Owned = list[tuple[int, int]]
"""Start and owner of ranges."""


def own_local(documents: PackedDocuments, ranks: int, *, spread_above_tokens: int, grain_tokens: int = 1) -> Ownership:
    """Spread documents longer than ``spread_above_tokens``, keep the others whole where they fit.

    Long documents are cut at multiples of ``grain_tokens``, unless ranks then had more than their tokens.
    """
    length = documents.ranges.length
    long = documents.real & (length > spread_above_tokens)
    for grain in (grain_tokens, 1):
        chunks, owner = cut_zigzag(documents.ranges.where(long), ranks, grain_tokens=grain)
        used = np.bincount(owner, weights=chunks.length, minlength=ranks)
        room = [documents.tokens // ranks - int(tokens) for tokens in used]
        if min(room) >= 0:
            break
    owned: _Owned = list(zip(chunks.start.tolist(), owner.tolist(), strict=True))

    short = np.flatnonzero(documents.real & ~long)
    by_length = short[np.argsort(-length[short], kind="stable")]
    large, small = np.split(by_length, [_ASSIGNED_PER_RANK * ranks])
    unplaced = _assign_each(_listed(documents.ranges, large), room, owned)
    rest = deque(sorted(_listed(documents.ranges, small) + unplaced))
    _fill_rooms(rest, deque(_listed(documents.ranges, np.flatnonzero(~documents.real))), room, owned)
    owned.sort()
    return Ownership(*np.array(owned).T)


def _listed(ranges: TokenRanges, chosen: Int64[np.ndarray, "chosen"]) -> list[_Range]:
    return list(zip(ranges.start[chosen].tolist(), ranges.stop[chosen].tolist(), strict=True))


def _assign_each(documents: list[_Range], room: list[int], owned: _Owned) -> list[_Range]:
    """Give documents, longest first, to the rank with the least work that has room; return those that fit nowhere."""
    work, unplaced = [0] * len(room), []
    for start, stop in documents:
        tokens = stop - start
        fitting = [rank for rank in range(len(room)) if room[rank] >= tokens]
        if fitting:
            rank = min(fitting, key=lambda rank: (work[rank], -room[rank]))
            work[rank] += tokens * tokens
            room[rank] -= tokens
            owned.append((start, rank))
        else:
            unplaced.append((start, stop))
    return unplaced


def _fill_rooms(rest: deque[_Range], padding: deque[_Range], room: list[int], owned: _Owned) -> None:
    """Fill every rank's room with whole documents, then padding, then a part of a document."""
    wanted, total = sum(stop - start for start, stop in rest), sum(room)
    for rank, space in enumerate(room):
        for start, stop in _choose(rest, -(-space * wanted // max(total, 1))):
            owned.append((start, rank))
            space -= stop - start
        for ranges in (padding, rest):
            while space and ranges:
                start, stop = ranges.popleft()
                owned.append((start, rank))
                if stop - start > space:
                    ranges.appendleft((start + space, stop))
                    stop = start + space
                space -= stop - start
        assert not space, "ranks' rooms and what is left sum to the same"


def _choose(rest: deque[_Range], target_tokens: int) -> list[_Range]:
    """Take whole documents, from the front while there are many, at the end those that come nearest to the target."""
    taken: list[_Range] = []
    while True:
        ahead = list(islice(rest, _CANDIDATES))
        lengths = [stop - start for start, stop in ahead]
        if len(ahead) < _CANDIDATES or sum(lengths) > target_tokens:
            break
        half = [rest.popleft() for _ in range(_CANDIDATES // 2)]
        taken += half
        target_tokens -= sum(stop - start for start, stop in half)
    chosen = set(_fill(lengths, target_tokens))
    for _ in ahead:
        rest.popleft()
    rest.extendleft(ahead[index] for index in reversed(range(len(ahead))) if index not in chosen)
    return taken + [ahead[index] for index in sorted(chosen)]


def _fill(lengths: list[int], target_tokens: int) -> list[int]:
    """Which lengths sum to the target, or to the most below it: a subset sum over the bits of one large number."""
    reachable, history = 1, []
    for length in lengths:
        history.append(reachable)
        reachable |= reachable << length
    best = (reachable & ((2 << target_tokens) - 1)).bit_length() - 1
    chosen = []
    for index in reversed(range(len(lengths))):
        if not history[index] >> best & 1:
            chosen.append(index)
            best -= lengths[index]
    return chosen
