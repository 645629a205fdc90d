"""Layouts give tokens to ranks: contiguous, zigzag per document, balanced, or local.

Every layout gives each rank exactly tokens / ranks tokens, for any documents. ``auto`` tries all of them, and local
with several lengths from which a document is spread; the caller takes the cheapest. Where recurrent layers share the
partition, ``auto`` leaves out those that cut each document into 2 x ranks parts, short ones too.
"""

from collections.abc import Iterator

import numpy as np

from ropewalk.partition.balanced import FOR_ATTENTION, FOR_RECURRENCES, own_balanced
from ropewalk.partition.local import own_local
from ropewalk.partition.segments import Ownership, PackedDocuments
from ropewalk.partition.zigzag import own_zigzag

LAYOUTS = ("auto", "contiguous", "zigzag", "balanced", "local")
_SPREAD_SHARES = (1.0, 0.5, 0.25, 0.125)
_FEW_DOCUMENTS = 512
"""Up to so many, all layouts are tried; among more, balanced finds shares that nothing beats by much."""


def own_contiguous(documents: PackedDocuments, ranks: int) -> Ownership:
    """Rank r owns the r-th of equal ranges: least traffic, and no balance for a long document."""
    return Ownership(np.arange(ranks) * (documents.tokens // ranks), np.arange(ranks))


def propose(
    documents: PackedDocuments, ranks: int, layout: str, *, recurrent: bool = False
) -> Iterator[tuple[str, Ownership]]:
    """The ownerships that a layout allows, each with the layout's name; where two cost the same, the first is meant.

    ``recurrent``: the model has recurrent layers, for which a document in fewer and longer pieces costs less.
    """
    if ranks == 1:
        yield "contiguous" if layout == "auto" else layout, own_contiguous(documents, 1)
        return
    rule = FOR_RECURRENCES if recurrent else FOR_ATTENTION
    searched = layout == "auto" and len(documents.real) <= _FEW_DOCUMENTS
    if layout in ("contiguous", "auto"):
        yield "contiguous", own_contiguous(documents, ranks)
    if layout in ("balanced", "auto"):
        yield "balanced", own_balanced(documents, ranks, rule)
    if layout == "local" or searched:
        lengths = documents.ranges.length[documents.real]
        shares = [documents.tokens // ranks * share for share in _SPREAD_SHARES]
        if recurrent:
            # Parts of 2 x ranks have the least length only from about a quarter of a share on.
            shares = [max(share, 2 * ranks * rule.least_tokens) for share in shares[:3]]
        spread = [int((lengths > share).sum()) for share in shares]
        for number, share in enumerate(shares):
            if number and spread[number] == spread[number - 1]:
                continue  # the same documents are spread, so it is the same ownership
            yield "local", own_local(documents, ranks, spread_above_tokens=int(share), grain_tokens=rule.grain_tokens)
    if layout == "zigzag" or (searched and not recurrent):
        yield "zigzag", own_zigzag(documents, ranks)
