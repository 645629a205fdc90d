"""Counts the labels of segments of documents. A sequence without labels costs the time of a step and trains nothing."""

import numpy as np
from jaxtyping import Int64

from ropewalk.corpus.tokens.store import StoredDocuments


def count_piece_labels(
    documents: StoredDocuments,
    document: Int64[np.ndarray, "pieces"],
    start: Int64[np.ndarray, "pieces"],
    tokens: Int64[np.ndarray, "pieces"],
) -> Int64[np.ndarray, "pieces"]:
    """Count the labels of the segments ``[start, start + tokens)`` of some of ``documents``."""
    if not documents.is_masked:
        return tokens - 1
    labels = np.asarray(documents.labels[document])
    for piece in np.flatnonzero((start > 0) | (tokens < documents.lengths[document])).tolist():
        begin, end = int(start[piece]), int(start[piece] + tokens[piece])
        _, mask = documents.read(int(document[piece]), begin, end)
        labels[piece] = int(mask[1:].sum(dtype=np.int64))
    return labels
