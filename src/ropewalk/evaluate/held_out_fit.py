"""Whether a fitted law may be used: it must predict points that it has not seen.

A law with as many exponents as ours follows any smooth curve. So the points that a user would extrapolate to are held
out, and the fit is refused where the largest relative error there is above 1 %, or where the law explains less than
97 % of the variance.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64

from ropewalk.core.quantity import format_count

LARGEST_ERROR, SMALLEST_R2 = 0.01, 0.97


@dataclass(frozen=True, slots=True)
class FitTest:
    """How well a law predicts the points that were held out."""

    error: float
    """Largest relative error."""
    r2: float
    """Share of the variance that the law explains; below 0 where the mean predicts better."""
    points: int

    @property
    def is_accepted(self) -> bool:
        return self.error <= LARGEST_ERROR and self.r2 >= SMALLEST_R2

    @property
    def text(self) -> str:
        """One line for people."""
        verdict = "accepted" if self.is_accepted else "refused"
        wanted = f"error at most {LARGEST_ERROR:.0%}, R2 at least {SMALLEST_R2}"
        return (
            f"{verdict}: {format_count(self.points, 'held-out point')}, error {self.error:.2%}, R2 {self.r2:.3f} "
            f"({wanted})"
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"accepted": self.is_accepted}


def judge(
    predicted: Float64[np.ndarray, "points"],
    measured: Float64[np.ndarray, "points"],
    held_out: Bool[np.ndarray, "points"],
    *,
    over_all: bool = False,
) -> FitTest:
    """Compare predictions and measurements where ``held_out``.

    ``over_all`` takes R2 over all points: one held-out point has no variance.
    """
    error = float(np.abs(predicted / measured - 1)[held_out].max())
    kept = np.ones_like(held_out) if over_all else held_out
    spread = float(np.square(measured[kept] - measured[kept].mean()).sum())
    left = float(np.square(measured[kept] - predicted[kept]).sum())
    return FitTest(error, 1 - left / spread if spread else -np.inf, int(held_out.sum()))
