"""The distribution of a column of values over documents, with examples on both sides of each threshold.

A person chooses a threshold by reading: the documents just below it should be worth less than those just above it. A
column that no rule uses yet shows the documents around four percentiles, where a threshold could be.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64

from ropewalk.corpus.prepare.document_records import DocumentRecords

_SHOWN, _BINS = 5, 40
_PERCENTILES = (0, 5, 20, 50, 80, 95, 100)
_CANDIDATES = (5, 20, 80, 95)

Bound = tuple[str, Float64[np.ndarray, "documents"]]
"""A threshold: its name, and what it is for each document: one number, or the percentile of a cell; NaN for a document
that its rule does not judge."""


def describe_column(
    name: str,
    values: Float64[np.ndarray, "documents"],
    applies: Bool[np.ndarray, "documents"],
    bounds: Sequence[Bound],
    documents: DocumentRecords,
) -> dict[str, Any]:
    """A column as JSON data: ``{column, documents, percentiles, edges, counts, best, worst, around}``.

    Only documents where ``applies`` count. ``around`` has an entry for each of ``bounds`` (or for four percentiles),
    with the documents that are nearest below and above it. A document is ``{id, value, text}``.
    """
    numbers = np.flatnonzero(applies)
    held = values[numbers]
    order = numbers[np.argsort(held, kind="stable")]
    percentiles = {str(at): float(np.percentile(held, at)) for at in _PERCENTILES} if len(held) else {}
    counts, edges = _count_bins(held)
    if not bounds and len(held):
        bounds = [(f"percentile {at}", np.full(len(values), np.percentile(held, at))) for at in _CANDIDATES]

    def show(chosen: Sequence[int]) -> list[dict[str, Any]]:
        records = [(number, documents.read(number)) for number in chosen]
        return [{"id": record["id"], "value": float(values[n]), "text": record["text"]} for n, record in records]

    return {
        "column": name,
        "documents": len(numbers),
        "percentiles": percentiles,
        "edges": edges.tolist() if len(held) else [],
        "counts": counts.tolist() if len(held) else [],
        "best": show(order[::-1][:_SHOWN].tolist()),
        "worst": show(order[:_SHOWN].tolist()),
        "around": [
            {
                "bound": told,
                "value": _only_one(bound[numbers]),
                "below": show(_nearest(numbers, (bound - values)[numbers], strictly=True)),
                "above": show(_nearest(numbers, (values - bound)[numbers], strictly=False)),
            }
            for told, bound in bounds
            if not np.isnan(bound[numbers]).all()
        ],
    }


def _count_bins(
    held: Float64[np.ndarray, "judged"],
) -> tuple[Int64[np.ndarray, "bins"], Float64[np.ndarray, "bins+1"]]:
    """How many values are in each of some bins, and the edges of these."""
    if len(held) and held.min() < held.max():
        edges = np.unique(np.linspace(held.min(), held.max(), _BINS + 1))
        if len(edges) <= _BINS:  # there are too few numbers between, as between 0.3 and 0.1 + 0.2
            counts, _ = np.histogram(held, bins=edges)
            return counts, edges
    return np.histogram(held, bins=_BINS)


def _only_one(bounds: Float64[np.ndarray, "judged"]) -> float | None:
    """The threshold that all documents have which its rule judges; None where it is not the same for all."""
    held = bounds[~np.isnan(bounds)]
    return float(held[0]) if (held == held[0]).all() else None


def _nearest(
    numbers: Int64[np.ndarray, "judged"], distance: Float64[np.ndarray, "judged"], *, strictly: bool
) -> list[int]:
    """The documents on the side of a threshold where ``distance`` is positive, the nearest first."""
    at = np.flatnonzero(distance > 0 if strictly else distance >= 0)
    near: list[int] = numbers[at[np.argsort(distance[at], kind="stable")[:_SHOWN]]].tolist()
    return near
