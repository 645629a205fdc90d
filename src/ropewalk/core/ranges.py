"""The one way from many ranges to the indices in them."""

import numpy as np
from jaxtyping import Int64


def expand_ranges(
    start: Int64[np.ndarray, "ranges"], length: Int64[np.ndarray, "ranges"]
) -> Int64[np.ndarray, "indices"]:
    """All indices of the ranges ``start[i] : start[i] + length[i]``, one range after the other.

    Ranges may overlap, stand in any order and be empty. Starts 5 and 2 with lengths 3 and 2 give 5 6 7 2 3.
    """
    ends = np.cumsum(length)
    indices: np.ndarray = np.arange(ends[-1] if len(ends) else 0)
    indices += np.repeat(start - (ends - length), length)
    return indices


def count_within(length: Int64[np.ndarray, "ranges"]) -> Int64[np.ndarray, "indices"]:
    """For ranges laid end to end, the place of each index in its range: lengths 3 and 2 give 0 1 2 0 1."""
    return expand_ranges(np.zeros_like(length), length)
