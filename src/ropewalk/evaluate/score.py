"""From sums to values with 95 % intervals.

Accuracies have Wilson's interval, which stays inside [0, 1] also where all answers are right. Losses are ratios of sums
over documents, and tokens of one document are alike: their interval comes from the spread between documents.
"""

import math

import numpy as np
from jaxtyping import Float64

Interval = tuple[float, float, float]
"""(value, low, high)."""

_Z = 1.959963984540054  # 97.5 % of a normal distribution lie below


def wilson(correct: float, count: float) -> Interval:
    """The share of ``correct`` among ``count`` > 0 (Wilson 1927)."""
    assert 0 <= correct <= count and count > 0
    share, square = correct / count, _Z**2 / count
    middle = (share + square / 2) / (1 + square)
    half = _Z * math.sqrt(share * (1 - share) / count + square / (4 * count)) / (1 + square)
    # Rounding must not leave the value outside of its own interval.
    return share, min(share, max(0.0, middle - half)), max(share, min(1.0, middle + half))


def ratio(total: Float64[np.ndarray, "documents"], count: Float64[np.ndarray, "documents"]) -> Interval:
    """``sum(total) / sum(count)`` with documents as the sample (Cochran 1977, the ratio estimator).

    The interval is infinite where fewer than two documents count.
    """
    return difference((total, count), (np.zeros_like(total), count))


def difference(
    first: tuple[Float64[np.ndarray, "documents"], Float64[np.ndarray, "documents"]],
    second: tuple[Float64[np.ndarray, "documents"], Float64[np.ndarray, "documents"]],
) -> Interval:
    """The ratio of ``first`` less that of ``second``, each a (total, count) over the same documents, in pairs."""
    values, shares = [], []
    for total, count in (first, second):
        assert count.sum() > 0
        values.append(float(total.sum() / count.sum()))
        shares.append((total - values[-1] * count) / float(count.sum()))
    documents = int(((first[1] > 0) | (second[1] > 0)).sum())
    value = values[0] - values[1]
    if documents < 2:
        return value, -math.inf, math.inf
    deviation = math.sqrt(float(np.square(shares[0] - shares[1]).sum()) * documents / (documents - 1))
    return value, value - _Z * deviation, value + _Z * deviation
