"""Cuts related texts and puts their chunks between those of others: so a text goes on far behind its begin.

``interleave``: all first chunks of a document's texts, then all second ones (LongSkywork, 2406.00605). ``negatives``:
the first text is cut, and the texts nearest to it stand between its chunks (NExtLong, 2501.12766). The order within a
text is kept, and each token stands there once. The whole is one document to the attention mask: hidden from each other,
the chunks of a text would be short texts, and nothing would be gained.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from ropewalk.corpus.join.cut_places import TextCutter
from ropewalk.corpus.join.write_pieces import PartOrder
from ropewalk.corpus.join_rules import RelatedRules
from ropewalk.corpus.tokens.store import StoredDocuments

_KNOT, _LIST = "[{}]\n", "\n[{}]"
"""Before a chunk its number, which nobody could foresee and which is not trained on; behind the last chunk of a text
the numbers of all its chunks, which are."""


class Chunk(NamedTuple):
    """Tokens ``[begin, end)`` of a text of a chain."""

    text: int
    begin: int
    end: int


def arrange(chains: PartOrder, documents: StoredDocuments, rules: RelatedRules, cutter: TextCutter) -> PartOrder:
    """The chunks of the texts in ``chains``, in their new order. ``documents`` are all stored ones."""
    borders = [*np.flatnonzero(chains.opens).tolist(), len(chains.documents)]
    rows: list[tuple[int, int, int, bool]] = []
    before: list[str] = []
    behind: list[str] = []
    for first, last in pairwise(borders):
        own = chains.documents[first:last].tolist()
        chunks = _order_chunks(own, documents, rules, cutter)
        rows += [(own[chunk.text], chunk.begin, chunk.end, at == 0) for at, chunk in enumerate(chunks)]
        heads, lists = _tie(chunks) if rules.knots and len(chunks) > len(own) else ([""] * len(chunks),) * 2
        before += heads
        behind += lists
    table = np.array(rows, dtype=np.int64).reshape(-1, 4)
    return PartOrder(
        documents=table[:, 0],
        opens=table[:, 3].astype(bool),
        continued=chains.continued,
        spans=table[:, 1:3],
        knots=tuple(before) if rules.knots else (),
        behind=tuple(behind) if rules.knots else (),
    )


def _order_chunks(
    own: Sequence[int], documents: StoredDocuments, rules: RelatedRules, cutter: TextCutter
) -> list[Chunk]:
    whole = [Chunk(at, 0, int(documents.lengths[number])) for at, number in enumerate(own)]
    if len(own) < 2:
        return whole
    if rules.arrange == "negatives":
        cut = _cut(own, 0, min(rules.chunks, len(own)), documents, cutter)
        return put_between(cut, whole[1:])
    return interleave([_cut(own, at, rules.chunks, documents, cutter) for at in range(len(own))])


def _cut(own: Sequence[int], at: int, chunks: int, documents: StoredDocuments, cutter: TextCutter) -> list[Chunk]:
    return [Chunk(at, *pair) for pair in pairwise(cutter.cut(documents.read(own[at])[0], chunks))]


def interleave(texts: Sequence[Sequence[Chunk]]) -> list[Chunk]:
    """The first chunks of all texts, then the second ones, and so on."""
    return [chunks[turn] for turn in range(max(map(len, texts))) for chunks in texts if turn < len(chunks)]


def put_between(cut: Sequence[Chunk], others: Sequence[Chunk]) -> list[Chunk]:
    """The chunks of a text with ``others`` between them, equally many in each gap; behind them where it is not cut."""
    gaps = len(cut) - 1
    if not gaps:
        return [*cut, *others]
    found: list[Chunk] = []
    for gap in range(gaps):
        found += [cut[gap], *others[gap * len(others) // gaps : (gap + 1) * len(others) // gaps]]
    return [*found, cut[-1]]


def _tie(chunks: Sequence[Chunk]) -> tuple[list[str], list[str]]:
    """What stands before and behind each chunk. Only a text of several chunks has a list."""
    numbers: dict[int, list[int]] = {}
    for number, chunk in enumerate(chunks, 1):
        numbers.setdefault(chunk.text, []).append(number)
    lists = {own[-1]: own for own in numbers.values() if len(own) > 1}
    return (
        [_KNOT.format(number) for number in range(1, len(chunks) + 1)],
        [
            _LIST.format(" ".join(map(str, lists[number]))) if number in lists else ""
            for number in range(1, len(chunks) + 1)
        ],
    )
