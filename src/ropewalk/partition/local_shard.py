"""The entries of a batch field that one rank owns: tokens, labels, weights, positions, or any field with one entry a
token.
"""

from typing import Any

import numpy as np

from ropewalk.partition.ulysses import AnyPartition


def local_shard(
    partition: AnyPartition, rank: int, field: np.ndarray[Any, np.dtype[Any]]
) -> np.ndarray[Any, np.dtype[Any]]:
    """The entries of ``field`` [rows, context, ...] that ``rank`` owns, in its local order: [local, ...]."""
    packed = field.reshape(-1, *field.shape[2:])
    assert len(packed) == partition.tokens, "the field has the shape that the partition was made for"
    local: np.ndarray[Any, Any] = packed[partition.owned(rank)]
    return local
