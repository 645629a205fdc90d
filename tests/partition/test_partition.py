"""Every pair inside the mask computed once and none outside; every needed key received once and nothing else."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from packs import mask_of, pack, packs
from ropewalk.core.error import UserError
from ropewalk.partition.layout import LAYOUTS
from ropewalk.partition.partition import Partition, partition_tokens
from ropewalk.partition.tiles import Tiles

WINDOWS = st.one_of(st.none(), st.integers(1, 50))


def add_tiles(counts: np.ndarray, tiles: Tiles, queries: np.ndarray, keys: np.ndarray) -> None:
    """Count the pairs that the tiles compute, in packed indices."""
    for tile in tiles:
        query, key = np.arange(tile.query_tokens)[:, None], np.arange(tile.key_tokens)
        seen = np.ones((tile.query_tokens, tile.key_tokens), dtype=bool)
        if tile.mask.causal is not None:
            seen &= key <= query + tile.mask.causal
        if tile.mask.window is not None:
            seen &= key >= query + tile.mask.window
        assert seen.any(axis=1).all(), "a query of a tile without a key would break the kernel"
        of_queries = queries[tile.query : tile.query + tile.query_tokens]
        counts[np.ix_(of_queries, keys[tile.key : tile.key + tile.key_tokens])] += seen


def count_computed(partition: Partition) -> np.ndarray:
    counts = np.zeros((partition.tokens, partition.tokens), dtype=int)
    for rank in range(partition.ranks):
        own = partition.owned(rank)
        add_tiles(counts, partition.causal_tiles(rank), own, own)
        blocks = [own, *(block.expand() for block in partition.blocks(rank))]
        for tiles, block in zip(partition.tiles(rank), blocks, strict=True):
            add_tiles(counts, tiles, own, block)
    return counts


@settings(max_examples=150, deadline=None, derandomize=True)
@given(packs(), st.sampled_from(LAYOUTS), st.sampled_from(["needed_kv", "ring", "all_gather"]), WINDOWS)
def test_exactly_the_mask_is_computed_once(
    drawn: tuple[np.ndarray, int], layout: str, exchange: str, window: int | None
) -> None:
    document, ranks = drawn
    partition = partition_tokens(document, ranks=ranks, layout=layout, exchange=exchange, window=window)
    mask = mask_of(document, window)
    assert np.array_equal(count_computed(partition), mask.astype(int))
    for rank in range(ranks):
        assert partition.pairs[rank] == mask[partition.owned(rank)].sum()


@settings(max_examples=150, deadline=None, derandomize=True)
@given(packs(), st.sampled_from(LAYOUTS), WINDOWS)
def test_exactly_the_needed_keys_are_received_once(
    drawn: tuple[np.ndarray, int], layout: str, window: int | None
) -> None:
    document, ranks = drawn
    partition = partition_tokens(document, ranks=ranks, layout=layout, window=window)
    mask = mask_of(document, window)
    for rank in range(ranks):
        own = partition.owned(rank)
        truth = np.setdiff1d(np.flatnonzero(mask[own].any(axis=0)), own)
        received = [partition.received(rank, source) for source in range(ranks)]
        assert np.array_equal(np.sort(np.concatenate(received)), truth)
        assert [len(part) for part in received] == partition.traffic_tokens[rank].tolist()
        for source, part in enumerate(received):
            owner, local = partition.localise(part)
            assert (owner == source).all()
            assert np.array_equal(partition.owned(source)[local], part)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(packs(), st.sampled_from(LAYOUTS))
def test_every_token_has_one_owner_and_every_rank_as_many(drawn: tuple[np.ndarray, int], layout: str) -> None:
    document, ranks = drawn
    partition = partition_tokens(document, ranks=ranks, layout=layout)
    owned = [partition.owned(rank) for rank in range(ranks)]
    assert np.array_equal(np.sort(np.concatenate(owned)), np.arange(document.size))
    assert all(len(part) == document.size // ranks and (np.diff(part) > 0).all() for part in owned)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(packs(), st.sampled_from(LAYOUTS), st.integers(1, 50), st.sampled_from(["needed_kv", "ring", "all_gather"]))
def test_another_window_over_the_same_tokens(
    drawn: tuple[np.ndarray, int], layout: str, window: int, exchange: str
) -> None:
    document, ranks = drawn
    whole = partition_tokens(document, ranks=ranks, layout=layout, exchange=exchange)
    windowed = whole.with_window(window)
    assert np.array_equal(count_computed(windowed), mask_of(document, window).astype(int))
    assert all(np.array_equal(windowed.owned(rank), whole.owned(rank)) for rank in range(ranks))
    assert windowed is whole.with_window(window), "layers with one window share one schedule"
    assert whole.with_window(None) is whole and windowed.with_window(None).window is None
    assert np.array_equal(count_computed(whole), mask_of(document).astype(int)), "the whole one stays whole"


@settings(max_examples=150, deadline=None, derandomize=True)
@given(packs(), st.sampled_from(LAYOUTS))
def test_every_token_knows_the_length_of_its_whole_document(drawn: tuple[np.ndarray, int], layout: str) -> None:
    document, ranks = drawn
    partition = partition_tokens(document, ranks=ranks, layout=layout)
    sequence = np.repeat(np.arange(len(document)), document.shape[1])
    ids = document.reshape(-1)
    truth = np.array(
        [((sequence == sequence[i]) & (ids == ids[i])).sum() if ids[i] >= 0 else 0 for i in range(ids.size)]
    )
    for rank in range(ranks):
        assert np.array_equal(partition.document_tokens(rank), truth[partition.owned(rank)])


def test_a_window_is_made_once_for_all_threads() -> None:
    partition = partition_tokens(pack([64], 64), ranks=2)
    with ThreadPoolExecutor(8) as threads:
        assert len({id(each) for each in threads.map(partition.with_window, [7] * 200)}) == 1
    with pytest.raises(UserError, match="a window must have at least one token"):
        partition.with_window(0)


def test_one_rank_owns_all_and_exchanges_nothing() -> None:
    partition = partition_tokens(pack([5, 3], 10), ranks=1)
    assert not partition.exchanges and partition.blocks(0) == () and partition.balance == 1
    assert [tuple(tile) for tile in partition.causal_tiles(0)] == [(0, 5, 0, 5, (0, None)), (5, 3, 5, 3, (0, None))]


def test_padding_alone_costs_nothing() -> None:
    partition = partition_tokens(pack([], 8), ranks=2)
    assert partition.pairs.sum() == 0 and not partition.exchanges and len(partition.causal_tiles(0)) == 0


def test_a_ring_sends_everything_and_needed_keys_do_not() -> None:
    document = pack([96, 32], 128)
    ring = partition_tokens(document, ranks=2, layout="zigzag", exchange="ring")
    needed = partition_tokens(document, ranks=2, layout="zigzag")
    assert ring.traffic_tokens.tolist() == [[0, 64], [64, 0]]
    assert needed.traffic_tokens.tolist() == [[0, 64], [32, 0]], "half of the front is enough for the middle"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"ranks": 3}, "fill the sequences up to a multiple of 3 tokens, or share them among 2 or 4 ranks"),
        ({"ranks": 0}, "sequences cannot be divided into equal parts"),
        ({"ranks": 2, "layout": "diagonal"}, "there is no layout 'diagonal'"),
        ({"ranks": 2, "exchange": "post"}, "there is no exchange 'post'"),
        ({"ranks": 2, "window": 0}, "a window must have at least one token"),
    ],
)
def test_what_cannot_be_cut_is_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        partition_tokens(pack([8], 8), **settings)  # type: ignore[arg-type]
