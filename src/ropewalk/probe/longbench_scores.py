"""LongBench Pro's five scores that need no judge: lines of an answer against a list of references.

A line counts as it is written after the last answer mark, in lower case and with single spaces.
"""

import math
from collections.abc import Sequence
from itertools import combinations

_MARKS = ("[Answer]", "[答案]")


def split_answer(written: str) -> list[str]:
    """The lines of an answer; none where nothing was written."""
    mark = next((mark for mark in _MARKS if mark in written), None)
    text = (written if mark is None else written.rpartition(mark)[2]).strip()
    return [_fold(line) for line in text.split("\n")] if text else []


def _fold(text: str) -> str:
    return " ".join(text.lower().split())


def match_first(references: Sequence[str], written: str) -> float:
    """Accuracy: 1 where the first line is the first reference."""
    return float(split_answer(written)[:1] == [_fold(references[0])])


def match_share(references: Sequence[str], written: str) -> float:
    """SubEM: the share of references that are lines of the answer."""
    lines = split_answer(written)
    return sum(_fold(each) in lines for each in references) / len(references)


def match_set(references: Sequence[str], written: str) -> float:
    """F1 of the set of lines."""
    wanted, lines = {_fold(each) for each in references}, set(split_answer(written))
    return 2 * len(wanted & lines) / (len(wanted) + len(lines))


def match_pairs(references: Sequence[str], written: str) -> float:
    """Pairwise accuracy: pairs of references in their order, over all pairs of lines; 0 below two lines.

    A line that is written twice has its last place. More right pairs than pairs of lines, which takes a reference that
    is given twice, is an error in the benchmark's program, and counts as 0.
    """
    lines = split_answer(written)
    if min(len(lines), len(references)) < 2:
        return 0.0
    place = {line: number for number, line in enumerate(lines)}
    right = sum(
        first in place and second in place and place[first] < place[second]
        for first, second in combinations(map(_fold, references), 2)
    )
    share = right / math.comb(len(lines), 2)
    return share if share <= 1 else 0.0


def match_order(references: Sequence[str], written: str) -> float:
    """NDCG at the number of references: the first reference is worth most, and an early line more than a late one.

    The gain is linear and the discount log2(1 + rank), as in trec_eval. A line that is written twice has its last
    place.
    """
    count = len(references)
    worth = {_fold(each): count - number for number, each in enumerate(references)}
    place = {line: number for number, line in enumerate(split_answer(written))}
    ranked = sorted(place, key=lambda line: place[line])[:count]
    best = sorted(worth.values(), reverse=True)
    return _discount([worth.get(line, 0) for line in ranked]) / _discount(best)


def _discount(gains: Sequence[int]) -> float:
    return math.fsum(gain / math.log2(rank + 2) for rank, gain in enumerate(gains))
