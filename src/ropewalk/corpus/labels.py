"""How many labels documents and pieces of them have: a row without one costs a step's time and teaches nothing.

A token is a label if it is trained on and another one of the same piece stands before it.
"""

import numpy as np
from jaxtyping import Int64

from ropewalk.corpus.store import Documents


def count_document_labels(documents: Documents) -> Int64[np.ndarray, "documents"]:
    """Labels of each whole document. Every mask is read once, from one end to the other."""
    counts = [np.empty(0, dtype=np.int64)]
    for shard in documents.shards:
        starts = np.concatenate([np.zeros(1, dtype=np.int64), shard.ends[:-1].astype(np.int64)])
        counts.append(np.add.reduceat(shard.mask, starts, dtype=np.int64) - shard.mask[starts])
    return np.concatenate(counts).take(documents.chosen)


def count_piece_labels(
    documents: Documents,
    document: Int64[np.ndarray, "pieces"],
    start: Int64[np.ndarray, "pieces"],
    tokens: Int64[np.ndarray, "pieces"],
) -> Int64[np.ndarray, "pieces"]:
    """Labels of pieces ``[start, start + tokens)`` of some of ``documents``."""
    if not documents.is_masked:
        return tokens - 1
    labels: Int64[np.ndarray, pieces] = count_document_labels(documents)[document]
    for piece in np.flatnonzero((start > 0) | (tokens < documents.lengths[document])).tolist():
        begin, end = int(start[piece]), int(start[piece] + tokens[piece])
        _, mask = documents.read(int(document[piece]), begin, end)
        labels[piece] = int(mask[1:].sum(dtype=np.int64))
    return labels
