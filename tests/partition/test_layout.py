"""Layouts against what they promise: balance, whole documents, equal shares, the cheapest of all, in milliseconds."""

import time

import numpy as np
import pytest

from packs import mixed_pack, pack
from ropewalk.partition.balanced import FOR_ATTENTION, FOR_RECURRENCES
from ropewalk.partition.cost import choose_cheapest, price_segments
from ropewalk.partition.layout import propose
from ropewalk.partition.local import own_local
from ropewalk.partition.partition import Partition, partition_tokens
from ropewalk.partition.segments import find_documents, make_segments


def cut_documents(partition: Partition) -> int:
    """Documents that more than one rank owns."""
    segments = partition.segments
    owners = {
        (document, owner) for document, owner in zip(segments.document, segments.owner, strict=True) if document >= 0
    }
    return len(owners) - len({document for document, _ in owners})


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_zigzag_balances_every_document(ranks: int) -> None:
    assert partition_tokens(mixed_pack(), ranks=ranks, layout="zigzag").balance < 1.001
    assert partition_tokens(pack([1 << 14], 1 << 14), ranks=ranks, layout="zigzag").balance < 1.001


@pytest.mark.parametrize("ranks", [2, 8])
def test_balanced_chunks_balance_with_fewer_keys_than_zigzag_where_documents_are_short(ranks: int) -> None:
    lengths = np.random.default_rng(3).integers(200, 3000, size=100).tolist()
    document = pack(lengths, 1 << 16)
    balanced = partition_tokens(document, ranks=ranks, layout="balanced")
    zigzag = partition_tokens(document, ranks=ranks, layout="zigzag")
    assert balanced.balance < 1.05
    assert balanced.traffic_tokens.sum() < 0.6 * zigzag.traffic_tokens.sum()


def test_auto_balances_and_sends_little_at_once() -> None:
    """One layout for both: 100 packs of documents around 4Ki (log-normal, sigma 1.3) in 128Ki tokens on 8 ranks."""
    tokens, ranks, share_of_ring = 1 << 17, 8, []
    for seed in range(100):
        lengths = np.random.default_rng(seed).lognormal(np.log(4096), 1.3, size=400).astype(int) + 1
        document = np.repeat(np.arange(400), lengths)[None, :tokens].astype(np.int32)
        partition = partition_tokens(document, ranks=ranks)
        assert partition.balance <= 1.02
        share_of_ring.append(partition.traffic_tokens.sum() / ((ranks - 1) * tokens))
        segments = partition.segments
        whole = np.bincount(document[0])[document[0, segments.ranges.start]]
        assert (segments.ranges.length >= np.minimum(64, whole)).all(), "no crumbs"
    assert np.mean(share_of_ring) <= 0.3, "0.24 where it was written; zigzag sends 0.75"


def test_contiguous_is_as_unbalanced_as_the_formula_says() -> None:
    for ranks in (2, 8):
        partition = partition_tokens(pack([1 << 14], 1 << 14), ranks=ranks, layout="contiguous")
        assert partition.balance == pytest.approx((2 * ranks - 1) / ranks, rel=1e-3)


@pytest.mark.parametrize("ranks", [2, 3, 8])
def test_local_keeps_many_short_documents_whole(ranks: int) -> None:
    lengths = np.random.default_rng(1).integers(16, 65, size=600).tolist()
    partition = partition_tokens(pack(lengths, 768 * ranks * 2), ranks=ranks, layout="local")
    document = np.flatnonzero(np.diff(np.append(partition.segments.document, -2)))
    assert cut_documents(partition) <= 1, "the last document of the sequence is cut by the pack itself"
    assert not partition.exchanges or partition.traffic_tokens.sum() < 64
    assert len(document) and partition.balance < 1.25


def test_local_leaves_equal_sequences_where_they_are() -> None:
    document = np.concatenate([pack([512], 512)] * 4)
    partition = partition_tokens(document, ranks=2, layout="local")
    assert not partition.exchanges and partition.balance == 1


def test_local_spreads_the_long_and_keeps_the_short() -> None:
    partition = partition_tokens(pack([3000, *[100] * 10], 4096), ranks=2, layout="local")
    owners = [set(partition.segments.owner[partition.segments.document == document].tolist()) for document in range(11)]
    assert owners[0] == {0, 1}
    assert sum(len(each) == 1 for each in owners[1:]) >= 9
    assert partition.balance < 1.1


def test_padding_fills_the_room_instead_of_a_cut() -> None:
    partition = partition_tokens(pack([300, 300, 300], 1024), ranks=2, layout="local")
    assert cut_documents(partition) == 1, "three documents of 300 and two rooms of 512"
    partition = partition_tokens(pack([300, 300], 1024), ranks=2, layout="local")
    assert cut_documents(partition) == 0 and partition.balance == 1


@pytest.mark.parametrize("lengths", [[4000, 900, *[100] * 40], [300] * 40, [1 << 13], [2000, 1100, 600, 300, 100]])
@pytest.mark.parametrize("recurrent", [False, True])
def test_no_spread_is_proposed_twice_and_none_is_left_out(lengths: list[int], recurrent: bool) -> None:
    """Against ``own_local`` for every length from which a document may be spread."""
    documents, ranks = find_documents(pack(lengths, 1 << 14)), 8
    rule = FOR_RECURRENCES if recurrent else FOR_ATTENTION
    shares = [(1 << 14) // ranks / part for part in ((1, 2, 4) if recurrent else (1, 2, 4, 8))]
    least = 2 * ranks * rule.least_tokens if recurrent else 0
    wanted = [
        own_local(documents, ranks, spread_above_tokens=int(max(share, least)), grain_tokens=rule.grain_tokens)
        for share in shares
    ]
    proposed = [owned for name, owned in propose(documents, ranks, "auto", recurrent=recurrent) if name == "local"]
    seen = [(owned.start.tolist(), owned.owner.tolist()) for owned in proposed]
    assert [each for number, each in enumerate(seen) if each not in seen[:number]] == seen
    assert {str((owned.start.tolist(), owned.owner.tolist())) for owned in wanted} == {str(each) for each in seen}


def test_auto_is_the_cheapest() -> None:
    for ranks in (2, 8):
        documents = find_documents(mixed_pack())
        all_of_them = [
            (name, make_segments(documents, owned, ranks)) for name, owned in propose(documents, ranks, "auto")
        ]
        assert {name for name, _ in all_of_them} == {"contiguous", "local", "zigzag", "balanced"}
        prices = [price_segments(segments, ranks, window=None)[0] for _, segments in all_of_them]
        _, chosen = choose_cheapest(all_of_them, ranks, window=None)
        assert price_segments(chosen, ranks, window=None)[0] <= 1.01 * min(prices)
        auto = partition_tokens(mixed_pack(), ranks=ranks)
        assert auto.balance < 1.1
        assert np.array_equal(auto.segments.owner, chosen.owner)


def test_auto_keeps_to_one_rank_what_needs_no_other() -> None:
    assert not partition_tokens(np.concatenate([pack([256], 256)] * 4), ranks=2).exchanges


def test_a_partition_takes_milliseconds() -> None:
    lengths = np.random.default_rng(5).integers(500, 5000, size=50).tolist()
    document = pack(lengths, 1 << 17)
    seconds = []
    for _ in range(5):
        begun = time.process_time()
        partition_tokens(document, ranks=8)
        seconds.append(time.process_time() - begun)
    assert min(seconds) < 0.05, "about 5 ms on an idle core"
