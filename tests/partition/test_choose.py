"""Tokens or heads: the cheaper one is taken, for a reason that is told."""

import numpy as np
import pytest

from packs import mixed_pack, pack
from ropewalk.core.error import UserError
from ropewalk.partition import UlyssesPartition, partition_tokens
from ropewalk.partition.choose import Sharing, choose_partition, make_sharing
from ropewalk.partition.cost import Heads, Price, count_own_pairs, price_of, price_segments

LLAMA_8B = Heads(32, 8, 128)
LONG = pack([1 << 17], 1 << 17)


def test_short_documents_stay_on_tokens_and_many_ranks_on_long_ones_share_heads() -> None:
    sharing = make_sharing(LLAMA_8B, device="cpu", element_bytes=2)
    choice = choose_partition(np.concatenate([pack([512] * 4, 2048)] * 4), ranks=4, sharing=sharing)
    assert not isinstance(choice.partition, UlyssesPartition) and not choice.partition.exchanges
    assert choice.costs.keys() == {1}, "nothing is cheaper than no traffic and equal work"
    slow = Price(key_pairs=1e5, query_pairs=1e5, kv_heads=8)
    choice = choose_partition(LONG, ranks=8, sharing=Sharing(LLAMA_8B, slow))
    assert isinstance(choice.partition, UlyssesPartition) and choice.partition.ulysses_degree == 8
    assert choice.costs.keys() == {1, 2, 4, 8} and min(choice.costs, key=choice.costs.__getitem__) == 8
    assert "tokens alone would cost" in choice.explain() and choice.explain().startswith("Ulysses over 8 ranks")


def test_a_ring_is_taken_where_it_hides_what_one_message_cannot() -> None:
    price = price_of(LLAMA_8B, device="cuda", element_bytes=2)
    assert price.overlaps
    partition = partition_tokens(LONG, ranks=16, price=price)
    costs = {
        each: price_segments(partition.segments, 16, window=None, price=price, exchange=each)[0]
        for each in ("needed_kv", "ring", "all_gather")
    }
    assert partition.exchange == "ring" and costs["ring"] < costs["needed_kv"] <= costs["all_gather"]
    assert partition_tokens(mixed_pack(), ranks=8, price=price).exchange == "needed_kv"


def test_own_pairs_are_those_that_need_nobody() -> None:
    partition = partition_tokens(mixed_pack(), ranks=4, layout="zigzag")
    found = count_own_pairs(partition.segments, 4)
    for rank in range(4):
        assert found[rank] == sum(
            tile.query_tokens * (tile.query_tokens + 1) // 2 for tile in partition.causal_tiles(rank)
        )


def test_what_is_asked_for_is_kept() -> None:
    asked = make_sharing(LLAMA_8B, device="cpu", element_bytes=2, ulysses_degree=2, layout="zigzag", exchange="ring")
    partition = choose_partition(LONG, ranks=4, sharing=asked).partition
    assert isinstance(partition, UlyssesPartition) and partition.ulysses_degree == 2
    assert (partition.token_partition.layout, partition.token_partition.exchange) == ("zigzag", "ring")
    by_tokens = make_sharing(LLAMA_8B, device="cpu", element_bytes=2, exchange="all_gather")
    assert choose_partition(LONG, ranks=4, sharing=by_tokens).costs.keys() == {1}
    with pytest.raises(UserError, match="heads cannot be divided"):
        choose_partition(LONG, ranks=3, sharing=make_sharing(LLAMA_8B, device="cpu", element_bytes=2, ulysses_degree=3))


def test_heads_that_cannot_be_split_are_not_looked_at() -> None:
    odd = make_sharing(Heads(9, 3, 64), device="cpu", element_bytes=4)
    document = pack([3 << 12], 3 << 12)
    assert choose_partition(document, ranks=6, sharing=odd).costs.keys() <= {1, 3}


def test_latents_are_cheaper_than_heads() -> None:
    """DeepSeek V3: 576 numbers of a token travel where tokens are cut, all keys where heads are."""
    with_keys, with_latents = (
        choose_partition(LONG, ranks=32, sharing=make_sharing(heads, device="cuda", element_bytes=2))
        for heads in (Heads(128, 128, 192), Heads(128, 128, 192, 576))
    )
    assert isinstance(with_keys.partition, UlyssesPartition)
    assert not isinstance(with_latents.partition, UlyssesPartition)
    assert with_latents.costs[1] < 0.6 * with_keys.costs[1]
