"""From sums to values with 95 % intervals.

Accuracies have Wilson's interval, which stays inside [0, 1] also where all answers are right. Losses are ratios of sums
over documents, and tokens of one document are alike: their interval comes from the spread between documents. Means over
seeds have Student's, which of three seeds is 2.5 standard deviations wide on either side.
"""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64

Interval = tuple[float, float, float]
"""(value, low, high)."""

_Z = 1.959963984540054  # 97.5 % of a normal distribution lie below
# Likewise of Student's distribution, by degrees of freedom from 1 on.
_T = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281, 2.2010, 2.1788, 2.1604, 2.1448)


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


def mean(values: Sequence[float]) -> Interval:
    """The mean of repeats of one measurement (seeds), with Student's interval (1908); infinite for a single one.

    Raises ValueError for more than 15 repeats.
    """
    assert values
    value, count = math.fsum(values) / len(values), len(values)
    if count == 1:
        return value, -math.inf, math.inf
    if count > len(_T) + 1:
        raise ValueError(f"{count} repeats; the table of Student's distribution ends at {len(_T) + 1}")
    deviation = math.sqrt(math.fsum((each - value) ** 2 for each in values) / (count - 1) / count)
    return value, value - _T[count - 2] * deviation, value + _T[count - 2] * deviation
