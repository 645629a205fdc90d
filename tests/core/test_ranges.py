"""Ranges against a loop of aranges."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ropewalk.core.ranges import count_within, expand_ranges


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 7)), max_size=9))
def test_indices_are_those_of_each_range_in_turn(ranges: list[tuple[int, int]]) -> None:
    start, length = np.array(ranges, dtype=np.int64).reshape(-1, 2).T
    truth = [index for first, count in ranges for index in range(first, first + count)]
    assert expand_ranges(start, length).tolist() == truth
    assert count_within(length).tolist() == [place for _, count in ranges for place in range(count)]
    assert expand_ranges(start, length).dtype == np.int64
