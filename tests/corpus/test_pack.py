"""Packing loses nothing and cuts nothing that fits."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ropewalk.corpus.pack import fit_rows, pack, split_documents

lengths = st.lists(st.integers(1, 400), min_size=0, max_size=60).map(lambda values: np.array(values, dtype=np.int64))


@given(lengths=lengths, context_tokens=st.integers(1, 128), seed=st.integers(0, 5))
@settings(max_examples=150, deadline=None)
def test_every_token_is_in_exactly_one_row(lengths: np.ndarray, context_tokens: int, seed: int) -> None:
    packing = pack(lengths, context_tokens=context_tokens, random=np.random.default_rng(seed))
    seen = [np.zeros(length, dtype=int) for length in lengths]
    for document, start, tokens in zip(packing.document, packing.start, packing.tokens, strict=True):
        seen[document][start : start + tokens] += 1
    assert all((count == 1).all() for count in seen)
    assert (packing.row_tokens <= context_tokens).all() and (packing.row_tokens > 0).all()
    assert packing.row_tokens.sum() == lengths.sum()
    pieces = np.bincount(packing.document, minlength=len(lengths))
    assert (pieces == -(-lengths // context_tokens)).all()  # what fits stays whole


def test_long_documents_become_full_rows_and_a_tail() -> None:
    document, start, tokens = split_documents(np.array([5, 23, 10], dtype=np.int64), 10)
    assert list(zip(document, start, tokens, strict=True)) == [
        (0, 0, 5),
        (1, 0, 10),
        (1, 10, 10),
        (1, 20, 3),
        (2, 0, 10),
    ]


def test_best_fit_decreasing_by_hand() -> None:
    rows = fit_rows(np.array([4, 8, 1, 4, 2, 1], dtype=np.int64), 10)
    assert sorted(sorted(row) for row in rows) == [[0, 2, 3, 5], [1, 4]]


def test_padding_is_small_where_documents_are_many() -> None:
    lengths = np.random.default_rng(0).lognormal(6, 1, 20_000).astype(np.int64) + 1
    packing = pack(lengths, context_tokens=8192, random=np.random.default_rng(1))
    assert 1 - lengths.sum() / (8192 * len(packing.row_ends)) < 0.001


def test_order_depends_on_the_stream_alone() -> None:
    lengths = np.arange(1, 200, dtype=np.int64)
    first, same, other = (pack(lengths, context_tokens=256, random=np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(first.document, same.document) and not np.array_equal(first.document, other.document)


@pytest.mark.parametrize("context_tokens", [1, 7])
def test_nothing_to_pack_is_no_row(context_tokens: int) -> None:
    packing = pack(np.empty(0, dtype=np.int64), context_tokens=context_tokens, random=np.random.default_rng(0))
    assert len(packing.row_ends) == len(packing.row_tokens) == 0
