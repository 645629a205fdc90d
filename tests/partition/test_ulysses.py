"""Tokens over Ulysses groups and Ulysses over their ranks: who owns what, and what cannot be."""

import numpy as np
import pytest

from packs import mixed_pack, pack
from ropewalk.core.error import UserError
from ropewalk.partition import UlyssesPartition, local_shard, partition_tokens, partition_tokens_and_heads


@pytest.mark.parametrize(("ranks", "ulysses_degree"), [(2, 2), (4, 2), (8, 4)])
def test_ranks_share_the_tokens_of_their_group_in_order(ranks: int, ulysses_degree: int) -> None:
    document = mixed_pack()
    partition = partition_tokens_and_heads(document, ranks=ranks, ulysses_degree=ulysses_degree)
    ulysses_groups = partition_tokens(document, ranks=ranks // ulysses_degree)
    shares = [partition.owned(rank) for rank in range(ranks)]
    assert {len(share) for share in shares} == {document.size // ranks}
    for ulysses_group in range(ranks // ulysses_degree):
        mine = slice(ulysses_group * ulysses_degree, (ulysses_group + 1) * ulysses_degree)
        assert np.array_equal(np.concatenate(shares[mine]), ulysses_groups.owned(ulysses_group))
        lengths = [partition.document_tokens(rank) for rank in range(ranks)[mine]]
        assert np.array_equal(np.concatenate(lengths), ulysses_groups.document_tokens(ulysses_group))
    assert partition.balance == ulysses_groups.balance
    assert partition.pairs.sum() == pytest.approx(ulysses_groups.pairs.sum(), abs=ranks)
    assert np.array_equal(local_shard(partition, 1, document), document.reshape(-1)[shares[1]])


def test_one_member_is_no_team() -> None:
    assert not isinstance(partition_tokens_and_heads(mixed_pack(), ranks=2), UlyssesPartition)


def test_a_window_changes_the_teams_partition() -> None:
    partition = partition_tokens_and_heads(mixed_pack(), ranks=4, ulysses_degree=2)
    assert partition.with_window(None) is partition
    assert partition.with_window(64).window == 64


@pytest.mark.parametrize(
    ("document", "ranks", "words"), [(mixed_pack(), 4, "not a multiple of 3"), (pack([10], 10), 6, "10 tokens over 6")]
)
def test_what_makes_no_equal_teams(document: np.ndarray, ranks: int, words: str) -> None:
    with pytest.raises(UserError, match=words):
        partition_tokens_and_heads(document, ranks=ranks, ulysses_degree=3)
