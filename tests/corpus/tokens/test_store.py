"""What is written is what is mapped, over shard borders, in both widths, with and without a mask."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ropewalk.corpus.tokens.store import (
    StoredDocuments,
    all_documents,
    find_map,
    open_shards,
    token_dtype,
    write_shards,
)


@given(lengths=st.lists(st.integers(1, 50), min_size=1, max_size=30), shard_tokens=st.integers(1, 200))
@settings(max_examples=40, deadline=None)
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, lengths: list[int], shard_tokens: int) -> None:
    folder = tmp_path_factory.mktemp("shards")
    random = np.random.default_rng(0)
    made = [(random.integers(0, 90_000, length), random.integers(0, 2, length).astype(np.uint8)) for length in lengths]
    written = write_shards(made, folder, vocabulary=90_000, shard_tokens=shard_tokens)
    shards = open_shards(folder, vocabulary=90_000, manifest={})
    assert [len(shard.tokens) for shard in shards] == [entry["tokens"] for entry in written]
    documents = all_documents(shards)
    assert documents.lengths.tolist() == lengths
    for number, (tokens, mask) in enumerate(made):
        held_tokens, held_mask = documents.read(number)
        assert np.array_equal(held_tokens, tokens) and np.array_equal(held_mask, mask)
    numbers = random.integers(0, len(made), 20)
    pieces = np.stack([numbers, *np.sort(random.integers(0, np.array(lengths)[numbers] + 1, (2, 20)), axis=0)], axis=1)
    for (number, begin, end), held in zip(pieces.tolist(), documents.read_pieces(pieces), strict=True):
        for one, other in zip(held, made[number], strict=True):
            assert np.array_equal(one, other[begin:end])
    middle = len(made) // 2
    some = StoredDocuments(documents.shards, np.array([middle]))
    assert np.array_equal(some.read(0, 0, 1)[0], made[middle][0][:1])


def test_ids_are_two_bytes_while_they_fit(tmp_path: Path) -> None:
    assert token_dtype(65_536).itemsize == 2 and token_dtype(65_537).itemsize == 4
    ones = np.ones(2, dtype=np.uint8)
    write_shards([(np.array([0, 65_535]), ones)], tmp_path, vocabulary=65_536)
    assert (tmp_path / "shard-00000.tok").read_bytes() == b"\x00\x00\xff\xff"
    assert not (tmp_path / "shard-00000.mask").exists()
    assert open_shards(tmp_path, vocabulary=65_536, manifest={})[0].mask.tolist() == [1, 1]


def test_an_id_beyond_the_vocabulary_is_our_fault(tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        write_shards([(np.array([400]), np.ones(1, dtype=np.uint8))], tmp_path, vocabulary=400)


def test_documents_in_any_order_are_those_of_the_files(tmp_path: Path) -> None:
    """One document is longer than a page, so that the system is asked for it as a whole."""
    documents = [np.arange(length, dtype=np.int64) % 70_000 for length in (5, 30_000, 1, 4096)]
    write_shards(((ids, np.ones(len(ids), np.uint8)) for ids in documents), tmp_path, vocabulary=70_000)
    shards = open_shards(tmp_path, vocabulary=70_000, manifest={}, scattered=True)
    assert all(find_map(shard.tokens) is not None and not shard.tokens.flags.writeable for shard in shards)
    stored = all_documents(shards)
    for number in (3, 1, 0, 2):
        assert np.array_equal(stored.read(number)[0], documents[number])
    assert np.array_equal(stored.read(1, 29_000, 29_500)[0], documents[1][29_000:29_500])
    assert find_map(documents[0]) is None
