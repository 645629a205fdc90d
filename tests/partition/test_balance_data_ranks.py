"""Sequences of a step assigned to data ranks: each once, as many micro-batches everywhere, costly ones apart."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ropewalk.partition.balance_data_ranks import assign_sequences, count_sequence_pairs


@given(
    pairs=st.lists(st.integers(1, 10**9), min_size=1, max_size=40),
    ranks=st.integers(1, 6),
    micro_batch_size=st.integers(1, 4),
)
def test_every_sequence_is_assigned_once(pairs: list[int], ranks: int, micro_batch_size: int) -> None:
    assigned = assign_sequences(np.array(pairs), ranks=ranks, micro_batch_size=micro_batch_size)
    assert sorted(sequence for rank in assigned for batch in rank for sequence in batch) == list(range(len(pairs)))
    assert len(assigned) == ranks and {len(rank) for rank in assigned} == {-(-len(pairs) // (ranks * micro_batch_size))}
    for wave in zip(*assigned, strict=True):
        sizes = [len(hand) for hand in wave]
        assert max(sizes) <= micro_batch_size and max(sizes) - min(sizes) <= max(1, max(sizes) - 1)
        assert all(hand == sorted(hand) for hand in wave)


def test_one_rank_keeps_the_order() -> None:
    assert assign_sequences(np.array([1, 9, 5, 7]), ranks=1, micro_batch_size=2) == [[[0, 1], [2, 3]]]


@pytest.mark.parametrize("micro_batch_size", [1, 2, 4])
def test_micro_batches_are_nearly_even_where_sequences_are_not(micro_batch_size: int) -> None:
    """Sequences of 32Ki with documents around 4Ki tokens, 64 to a step of 4 ranks."""
    random = np.random.default_rng(0)
    sequences = []
    for _ in range(64):
        lengths = np.cumsum(random.lognormal(np.log(4096), 1.3, size=400).astype(int) + 1)
        sequences.append(np.diff(np.minimum(np.append(0, lengths), 1 << 15)).tolist())
    pairs = count_sequence_pairs(sequences)

    def price(assigned: list[list[list[int]]]) -> float:
        """What the ranks wait for, over what an even deal would cost."""
        waves = zip(*assigned, strict=True)
        return sum(max(pairs[hand].sum() for hand in wave) for wave in waves) / (pairs.sum() / 4)

    in_order = [
        [rank[i : i + micro_batch_size] for i in range(0, 16, micro_batch_size)]
        for rank in np.arange(64).reshape(4, 16).tolist()
    ]
    assert price(assign_sequences(pairs, ranks=4, micro_batch_size=micro_batch_size)) < 1.05 < 1.2 < price(in_order)
