"""The entries of a batch field that one rank owns: tokens, labels, weights, positions, or any field with one entry a
token.
"""

import numpy as np
from jaxtyping import Shaped

from ropewalk.partition.ulysses import AnyPartition


def local_shard(
    partition: AnyPartition, rank: int, field: Shaped[np.ndarray, "sequences context ..."]
) -> Shaped[np.ndarray, "local ..."]:
    """The entries of ``field`` that ``rank`` owns, in its local order."""
    packed = field.reshape(-1, *field.shape[2:])
    assert len(packed) == partition.tokens, "the field has the shape that the partition was made for"
    local: np.ndarray = packed[partition.owned(rank)]
    return local
