"""Rows over teams and heads over their members: who owns what, and what cannot be."""

import numpy as np
import pytest

from packs import mixed_pack, pack
from ropewalk.core.error import UserError
from ropewalk.partition import HeadPartition, cut, partition_rows, partition_rows_and_heads


@pytest.mark.parametrize(("ranks", "head_ranks"), [(2, 2), (4, 2), (8, 4)])
def test_members_share_their_teams_rows_in_order(ranks: int, head_ranks: int) -> None:
    document = mixed_pack()
    partition = partition_rows_and_heads(document, ranks=ranks, head_ranks=head_ranks)
    teams = partition_rows(document, ranks=ranks // head_ranks)
    shares = [partition.owned(rank) for rank in range(ranks)]
    assert {len(share) for share in shares} == {document.size // ranks}
    for team in range(ranks // head_ranks):
        mine = slice(team * head_ranks, (team + 1) * head_ranks)
        assert np.array_equal(np.concatenate(shares[mine]), teams.owned(team))
        lengths = [partition.document_tokens(rank) for rank in range(ranks)[mine]]
        assert np.array_equal(np.concatenate(lengths), teams.document_tokens(team))
    assert partition.balance == teams.balance
    assert partition.pairs.sum() == pytest.approx(teams.pairs.sum(), abs=ranks)
    assert np.array_equal(cut(partition, 1, document), document.reshape(-1)[shares[1]])


def test_one_member_is_no_team() -> None:
    assert not isinstance(partition_rows_and_heads(mixed_pack(), ranks=2), HeadPartition)


def test_a_window_changes_the_teams_partition() -> None:
    partition = partition_rows_and_heads(mixed_pack(), ranks=4, head_ranks=2)
    assert partition.with_window(None) is partition
    assert partition.with_window(64).window == 64


@pytest.mark.parametrize(
    ("document", "ranks", "words"), [(mixed_pack(), 4, "no multiple of 3"), (pack([10], 10), 6, "10 tokens over 6")]
)
def test_what_makes_no_equal_teams(document: np.ndarray, ranks: int, words: str) -> None:
    with pytest.raises(UserError, match=words):
        partition_rows_and_heads(document, ranks=ranks, head_ranks=3)
