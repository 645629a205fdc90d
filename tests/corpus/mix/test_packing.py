"""Packing loses nothing and cuts nothing that fits."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ropewalk.corpus.mix.packing import chunk, fit_sequences, pack, split_documents

lengths = st.lists(st.integers(1, 400), min_size=0, max_size=60).map(lambda values: np.array(values, dtype=np.int64))


@given(lengths=lengths, context_tokens=st.integers(1, 128), seed=st.integers(0, 5))
@settings(max_examples=150, deadline=None)
def test_every_token_is_in_exactly_one_row(lengths: np.ndarray, context_tokens: int, seed: int) -> None:
    packing = pack(lengths, context_tokens=context_tokens, random=np.random.default_rng(seed))
    seen = [np.zeros(length, dtype=int) for length in lengths]
    for document, start, tokens in zip(packing.document, packing.start, packing.tokens, strict=True):
        seen[document][start : start + tokens] += 1
    assert all((count == 1).all() for count in seen)
    assert (packing.sequence_tokens <= context_tokens).all() and (packing.sequence_tokens > 0).all()
    assert packing.sequence_tokens.sum() == lengths.sum()
    segments = np.bincount(packing.document, minlength=len(lengths))
    assert (segments == -(-lengths // context_tokens)).all()  # what fits stays whole


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
    sequences = fit_sequences(np.array([4, 8, 1, 4, 2, 1], dtype=np.int64), 10)
    assert sorted(sorted(sequence) for sequence in sequences) == [[0, 2, 3, 5], [1, 4]]


def test_padding_is_small_where_documents_are_many() -> None:
    lengths = np.random.default_rng(0).lognormal(6, 1, 20_000).astype(np.int64) + 1
    packing = pack(lengths, context_tokens=8192, random=np.random.default_rng(1))
    assert 1 - lengths.sum() / (8192 * len(packing.sequence_ends)) < 0.001


def test_order_depends_on_the_stream_alone() -> None:
    lengths = np.arange(1, 200, dtype=np.int64)
    first, same, other = (pack(lengths, context_tokens=256, random=np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(first.document, same.document) and not np.array_equal(first.document, other.document)


@given(lengths=lengths, context_tokens=st.integers(1, 128), seed=st.integers(0, 5))
@settings(max_examples=150, deadline=None)
def test_a_line_is_the_documents_end_to_end(lengths: np.ndarray, context_tokens: int, seed: int) -> None:
    packing = chunk(lengths, context_tokens=context_tokens, random=np.random.default_rng(seed))
    order = np.random.default_rng(seed).permutation(len(lengths))
    line = [(int(document), token) for document in order for token in range(lengths[document])]
    truth = sorted(line[at : at + context_tokens] for at in range(0, len(line), context_tokens))
    begins = np.concatenate([np.zeros(1, dtype=np.int64), packing.sequence_ends])[:-1]
    sequences = [
        [
            (int(packing.document[segment]), int(packing.start[segment]) + token)
            for segment in range(begin, end)
            for token in range(packing.tokens[segment])
        ]
        for begin, end in zip(begins, packing.sequence_ends, strict=True)
    ]
    assert sorted(sequences) == truth
    borders = set(range(context_tokens, len(line), context_tokens))
    ends = np.cumsum(lengths[order])
    cut = [
        length
        for length, end in zip(lengths[order], ends, strict=True)
        if length <= context_tokens and any(end - length < border < end for border in borders)
    ]
    assert packing.count_cut(lengths, context_tokens) == (len(cut), sum(cut))


def test_best_fit_cuts_nothing_that_fits() -> None:
    lengths = np.random.default_rng(0).lognormal(6, 1, 2_000).astype(np.int64) + 1
    assert pack(lengths, context_tokens=1024, random=np.random.default_rng(1)).count_cut(lengths, 1024) == (0, 0)


@pytest.mark.parametrize("pack", [pack, chunk])
@pytest.mark.parametrize("context_tokens", [1, 7])
def test_nothing_to_pack_is_no_row(context_tokens: int, pack: Any) -> None:
    packing = pack(np.empty(0, dtype=np.int64), context_tokens=context_tokens, random=np.random.default_rng(0))
    assert len(packing.sequence_ends) == len(packing.sequence_tokens) == 0
