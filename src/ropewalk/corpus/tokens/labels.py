"""Counts the labels of segments of documents. A sequence without labels costs the time of a step and trains nothing."""

import numpy as np
from jaxtyping import Int64

from ropewalk.corpus.tokens.store import StoredDocuments


def count_segment_labels(
    documents: StoredDocuments,
    document: Int64[np.ndarray, "segments"],
    start: Int64[np.ndarray, "segments"],
    tokens: Int64[np.ndarray, "segments"],
) -> Int64[np.ndarray, "segments"]:
    """Count the labels of the segments ``[start, start + tokens)`` of some of ``documents``."""
    if not documents.is_masked:
        return tokens - 1
    labels = np.asarray(documents.labels[document])
    for segment in np.flatnonzero((start > 0) | (tokens < documents.lengths[document])).tolist():
        begin, end = int(start[segment]), int(start[segment] + tokens[segment])
        _, mask = documents.read(int(document[segment]), begin, end)
        labels[segment] = int(mask[1:].sum(dtype=np.int64))
    return labels
