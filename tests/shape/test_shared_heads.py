"""Heads over ranks: how many key heads there must be, and which ranks cannot share them."""

import re

import pytest

from ropewalk.core.error import UserError
from ropewalk.shape.shared_heads import count_shared_heads


@pytest.mark.parametrize(
    ("heads", "kv_heads", "ranks", "shared"), [(32, 8, 4, 8), (32, 8, 16, 16), (32, 32, 2, 32), (12, 4, 3, 12)]
)
def test_key_heads_are_copied_as_often_as_needed(heads: int, kv_heads: int, ranks: int, shared: int) -> None:
    assert count_shared_heads(heads, kv_heads, ranks) == shared
    assert shared % ranks == 0 and shared % kv_heads == 0 and heads % shared == 0


@pytest.mark.parametrize(("heads", "kv_heads", "ranks"), [(4, 2, 3), (14, 2, 4), (8, 8, 16)])
def test_heads_that_do_not_divide_are_refused(heads: int, kv_heads: int, ranks: int) -> None:
    with pytest.raises(UserError, match=f"{heads} query heads and {kv_heads} key heads over {ranks} ranks") as raised:
        count_shared_heads(heads, kv_heads, ranks, context_ranks=2 * ranks)
    offered = re.findall(r"\d+", raised.value.fix)
    assert offered and all(2 * ranks % int(degree) == 0 for degree in offered)
    assert all(count_shared_heads(heads, kv_heads, int(degree)) for degree in offered)
