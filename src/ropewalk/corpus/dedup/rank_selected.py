"""Ranks the copies that the selection of their source leaves out behind those that it leaves in.

Without this, a text would be in no source at all: the copy that stays is left out later, and the others are gone as its
copies. Sections are cut before values are known, so there the rank stays that of role and size.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from ropewalk.corpus.dedup.copies_on_disk import Copies
from ropewalk.corpus.dedup.external_sort import Column, chunks

_UNJUDGED, _UNFIT, _DRAWN = 1, 2, 3
_BEHIND = np.uint64(1 << 60)


class LeftOut(NamedTuple):
    """What a source's selection says of its documents, by their numbers."""

    unfit: Int64[np.ndarray, "_"]
    """Documents that are left out by a value."""
    drawn: Int64[np.ndarray, "_"]
    """Documents that are left out by chance."""
    unjudged: Int64[np.ndarray, "_"]
    """Documents that have no value for one of the rules."""


def rank_selected(copies: Copies, groups: Sequence[Column], left_out: Sequence[LeftOut]) -> None:
    """Change ``copies.rank`` by the selection of each source (a shard of ``copies``).

    For each source, ``groups`` has the column of its groups. Where chance leaves out the best copy of a source, it
    leaves out its other copies too: else a text would have more chances the more copies it has. A copy without a value
    does not take the place of one that is left out: a file of scores has none for the copies that were dropped when it
    was made.
    """
    if not any(len(each.unfit) + len(each.drawn) for each in left_out):
        return
    state = Column(copies.scratch / "state", copies.documents, np.int8, filled=True)
    for first, each in zip(copies.borders, left_out, strict=False):
        states = state.open()
        for kind, numbers in ((_UNJUDGED, each.unjudged), (_UNFIT, each.unfit), (_DRAWN, each.drawn)):
            states[first + numbers] = kind
        del states
    for first, last in state.chunks():
        rank = copies.rank.read(first, last)
        rank[state.read(first, last) == _UNFIT] += _BEHIND
        copies.rank.write(first, rank)
    best = _find_own_best(copies, groups)
    for first, last in state.chunks():
        own, of_best = state.read(first, last), state.take(best.read(first, last))
        own[(of_best == _DRAWN) & (own != _UNFIT)] = _DRAWN
        state.write(first, own)
    marked = {group: _mark_left_out(copies, group, state, at) for at, group in enumerate(dict.fromkeys(groups))}
    for border, group in zip(pairwise(copies.borders), groups, strict=True):
        for first, last in chunks(*border):
            own, beside = state.read(first, last), marked[group].take(group.read(first, last))
            rank = copies.rank.read(first, last)
            rank[(own == _DRAWN) | ((own == _UNJUDGED) & beside)] += _BEHIND
            copies.rank.write(first, rank)


def _find_own_best(copies: Copies, groups: Sequence[Column]) -> Column:
    """For each document the best of its group within its source."""
    best, found = (Column(copies.scratch / name, copies.documents) for name in ("best-of-one", "own-best"))
    for (first, last), group in zip(pairwise(copies.borders), groups, strict=True):
        # At the first document of each group; sources before this one have left theirs there.
        for start, end in chunks(first, last):
            best.put(group.read(start, end), np.full(end - start, -1))
        for start, end in chunks(first, last):
            own, rank, at = group.read(start, end), copies.rank.read(start, end), np.arange(start, end)
            order = np.lexsort((at, rank, own))
            order = order[np.append(True, own[order][1:] != own[order][:-1])]
            held = best.take(own[order])
            order = order[(held < 0) | (rank[order] < copies.rank.take(np.maximum(held, 0)))]
            best.put(own[order], at[order])
        for start, end in chunks(first, last):
            found.write(start, best.take(group.read(start, end)))
    return found


def _mark_left_out(copies: Copies, group: Column, state: Column, number: int) -> Column:
    """For each group, at its first document, whether one of its documents is left out."""
    marks = Column(copies.scratch / f"has-left-out-{number}", copies.documents, np.bool_, filled=True)
    for first, last in state.chunks():
        marks.open()[group.read(first, last)[state.read(first, last) >= _UNFIT]] = True
    return marks
