"""Gradients of keys are added in as few launches as ranges overlap, with the same sums in every run."""

import numpy as np
import pytest
import torch

from ropewalk.attention.token_selection import select_ranges
from ropewalk.partition.token_ranges import TokenRanges


@pytest.mark.parametrize(
    ("start", "length", "launches"),
    [
        ([0, 10, 20], [10, 10, 10], 1),  # one slice
        ([40, 0, 25], [5, 10, 10], 0),  # one after the other is as cheap
        ([40, 0, 25, 50, 60], [5, 10, 10, 2, 2], 1),
        ([0, 0, 30, 35, 40, 45, 50, 55], [20, 10, 5, 5, 5, 3, 3, 3], 2),  # two segments of one document
        ([5, 0, 3, 60], [10, 6, 40, 2], 0),
        ([5, 0, 3, *range(44, 64)], [10, 6, 40, *[1] * 20], 3),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_parts_are_added_to_their_tokens(
    start: list[int], length: list[int], launches: int, dtype: torch.dtype
) -> None:
    ranges = TokenRanges.from_lengths(np.array(start), np.array(length))
    selection = select_ranges(ranges, torch.device("cpu"), adds=True)
    total, parts = torch.randn(64, 3, 2), torch.randn(sum(length), 3, 2).to(dtype)
    expected = total.clone()
    for first, count, part in zip(start, length, parts.split(length), strict=True):
        expected[first : first + count] += part
    selection.add(total, parts)
    assert torch.equal(total, expected), "in the order of the ranges, so to the last bit"
    assert len(selection.layers) == launches


def test_hundreds_of_ranges_are_one_launch() -> None:
    ranges = TokenRanges.from_lengths(np.arange(0, 4000, 10), np.full(400, 7))
    assert len(select_ranges(ranges, torch.device("cpu"), adds=True).layers) == 1
