"""Tokens are taken, and gradients added back, as a loop over ranges does it; without a copy where that can be."""

import numpy as np
import pytest
import torch

from ropewalk.attention.token_selection import index_tokens, select_ranges, select_stacked
from ropewalk.partition.token_ranges import TokenRanges

CPU = torch.device("cpu")
TENSOR = torch.arange(40.0).reshape(20, 2)


@pytest.mark.parametrize(("start", "length"), [([3, 7, 9], [4, 2, 1]), ([9, 2], [3, 3]), ([4, 4], [3, 5]), ([0], [20])])
def test_ranges_of_any_length(start: list[int], length: list[int]) -> None:
    selection = select_ranges(TokenRanges.from_lengths(np.array(start), np.array(length)), CPU)
    parts = [TENSOR[first : first + count] for first, count in zip(start, length, strict=True)]
    taken = selection.take(TENSOR)
    assert torch.equal(taken, torch.cat(parts))
    total, truth = torch.zeros(20, 2), torch.zeros(20, 2)
    selection.add(total, torch.ones_like(taken))
    for first, count in zip(start, length, strict=True):
        truth[first : first + count] += 1
    assert torch.equal(total, truth)


def test_adjoining_ranges_are_a_view() -> None:
    selection = select_ranges(TokenRanges(np.array([3, 7]), np.array([7, 9])), CPU)
    assert selection.take(TENSOR).data_ptr() == TENSOR[3:].data_ptr()
    with pytest.raises(AssertionError, match="adjoining"):
        select_stacked(np.array([0, 8]), 3).take(TENSOR)


@pytest.mark.parametrize("start", [[3, 7, 11], [2, 3, 9], [4, 4, 4], [17]])
def test_stacked_ranges(start: list[int]) -> None:
    selection = select_stacked(np.array(start), 3)
    taken = selection.take_stacked(TENSOR)
    assert torch.equal(taken, torch.stack([TENSOR[first : first + 3] for first in start]))
    is_regular = len(np.unique(np.diff(start))) <= 1
    assert (selection.index is None) == is_regular
    total = torch.zeros(20, 2)
    selection.add(total, torch.ones(len(start) * 3, 2))
    counts = np.zeros(20)
    np.add.at(counts, (np.array(start)[:, None] + np.arange(3)).reshape(-1), 1)
    assert total[:, 0].tolist() == counts.tolist()


def test_stacked_ranges_stop_at_the_limit() -> None:
    taken = select_stacked(np.array([3, 18]), 4, limit=20).take_stacked(TENSOR)
    assert torch.equal(taken, TENSOR[torch.tensor([[3, 4, 5, 6], [18, 19, 19, 19]])])


def test_tokens_are_indexed_by_a_slice_where_they_are_one_range() -> None:
    assert index_tokens(np.array([4, 5, 6]), CPU) == slice(4, 7)
    for tokens in ([4, 6], [6, 5, 4], [4, 4]):
        index = index_tokens(np.array(tokens), CPU)
        assert isinstance(index, torch.Tensor) and index.tolist() == tokens
