"""A rank's share of every field, and the way back."""

import numpy as np
import pytest

from packs import pack
from ropewalk.partition import local_shard, partition_tokens


@pytest.mark.parametrize("layout", ["contiguous", "zigzag", "balanced", "local"])
def test_shares_put_together_are_the_field(layout: str) -> None:
    document = np.concatenate([pack([30, 20], 64), pack([64], 64)])
    field = np.arange(128, dtype=np.float32).reshape(2, 64)
    partition = partition_tokens(document, ranks=4, layout=layout)
    back = np.zeros(128, dtype=np.float32)
    for rank in range(4):
        share = local_shard(partition, rank, field)
        assert share.dtype == field.dtype
        back[partition.owned(rank)] = share
    assert np.array_equal(back.reshape(2, 64), field)


def test_a_field_of_another_shape_is_our_fault() -> None:
    partition = partition_tokens(pack([8], 8), ranks=2)
    with pytest.raises(AssertionError, match="shape"):
        local_shard(partition, 0, np.zeros((1, 9)))
    assert local_shard(partition, 0, np.zeros((1, 8, 3))).shape == (4, 3), "fields may have more axes"
