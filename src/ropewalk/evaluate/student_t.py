"""The number of standard errors that hold a mean 95 % of the time, or as often as asked, by degrees of freedom (Student
1908).

For whole degrees of freedom the distribution is a finite sum of powers of a cosine (Abramowitz and Stegun 26.7.3 and
26.7.4). So it needs neither a table nor a library.
"""

import math
from functools import cache
from statistics import NormalDist

Z = 1.959963984540054
"""The same number for a normal distribution, which is the limit of Student's."""

LEVEL = 0.95
_FROM_SERIES = 1000


def within(errors: float, freedom: int) -> float:
    """The probability that Student's variable of ``freedom`` degrees is nearer to 0 than ``errors``."""
    assert errors >= 0 and freedom >= 1
    angle = math.atan(errors / math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term = cosine if odd else 1.0
    total = 0.0
    for power in range(2 + odd, freedom + 1, 2):
        total += term
        term *= cosine * cosine * (power - 1) / power
    return 2 / math.pi * (angle + sine * total) if odd else sine * total


@cache
def standard_errors(freedom: int, level: float = LEVEL) -> float:
    """Standard errors on either side of a mean that hold it at ``level``: 12.7 at 1 degree and 0.95, 1.96 at many."""
    assert 0 < level < 1
    z = Z if level == LEVEL else NormalDist().inv_cdf((1 + level) / 2)
    if freedom > _FROM_SERIES:  # the next term is below 1e-7 there
        return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
    low, high = z, 2 * z
    while within(high, freedom) < level:
        high *= 2
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        if within(middle, freedom) < level:
            low = middle
        else:
            high = middle
    return high
