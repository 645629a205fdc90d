"""The error of a tensor against its exact value, relative to the value's norm."""

from torch import Tensor


def relative_error(found: Tensor, exact: Tensor) -> float:
    """The norm of the difference over the norm of ``exact``; over the norm of ones where ``exact`` is zero.

    An exact value can be zero: the gradient of a query that reads one key. Rounding gives zero there on one CPU, and
    1e-17 on another. It is infinite where either has a NaN, so that no comparison passes by it.
    """
    exact = exact.double()
    error = (found.double() - exact).norm() / (exact.norm() or exact.numel() ** 0.5)
    return float(error.nan_to_num(float("inf")))
