"""Ranks the copies that the selection of their source leaves out behind copies of other sources that it leaves in.

Without this, a text would be in no source at all: the copy that stays is left out later, and the other is gone as its
copy. Sections are cut before values are known, so there the rank stays that of role and size.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from jaxtyping import Int64

from ropewalk.corpus.dedup.copies_on_disk import Copies
from ropewalk.corpus.dedup.external_sort import Column, chunks

_UNJUDGED, _UNFIT = 1, 2
_BEHIND = np.uint64(1 << 60)


def rank_selected(
    copies: Copies,
    groups: Sequence[Column],
    unfit: Sequence[Int64[np.ndarray, "_"]],
    unjudged: Sequence[Int64[np.ndarray, "_"]],
) -> None:
    """Change ``copies.rank`` by the selection of each source (a shard of ``copies``).

    For each source, ``groups`` has the column of its groups, ``unfit`` the numbers of the documents that are left out,
    ``unjudged`` those that have no value for one of the rules. A source's best copy decides for all its copies: else a
    text would have more chances the more copies it has. A copy without a value does not take the place of one that is
    left out: a file of scores has none for the copies that were dropped when it was made.
    """
    if not any(len(numbers) for numbers in unfit):
        return
    state = Column(copies.scratch / "state", copies.documents, np.int8, filled=True)
    for first, left_out, unknown in zip(copies.borders, unfit, unjudged, strict=False):
        states = state.open()
        states[first + unknown], states[first + left_out] = _UNJUDGED, _UNFIT
        del states
    decided = _decide_by_best(copies, groups, state)
    marked = {group: _mark_unfit(copies, group, decided, at) for at, group in enumerate(dict.fromkeys(groups))}
    for border, group in zip(pairwise(copies.borders), groups, strict=True):
        for first, last in chunks(*border):
            states, beside_unfit = decided.read(first, last), marked[group].take(group.read(first, last))
            rank = copies.rank.read(first, last)
            rank[(states == _UNFIT) | ((states == _UNJUDGED) & beside_unfit)] += _BEHIND
            copies.rank.write(first, rank)


def _decide_by_best(copies: Copies, groups: Sequence[Column], state: Column) -> Column:
    """For each document the state of the best of its group within its source."""
    best = Column(copies.scratch / "own-best", copies.documents)
    decided = Column(copies.scratch / "decided", copies.documents, np.int8)
    for (first, last), group in zip(pairwise(copies.borders), groups, strict=True):
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
            decided.write(start, state.take(best.take(group.read(start, end))))
    return decided


def _mark_unfit(copies: Copies, group: Column, state: Column, number: int) -> Column:
    """For each group, at its first document, whether one of its documents is left out."""
    marks = Column(copies.scratch / f"has-unfit-{number}", copies.documents, np.bool_, filled=True)
    for first, last in state.chunks():
        marks.open()[group.read(first, last)[state.read(first, last) == _UNFIT]] = True
    return marks
