"""Which steps are not taken: a loss or gradient that is not finite, or far above what the last steps had.

"Far" is counted in deviations, 1.4826 x the median distance from the median, so one wild value moves neither the middle
nor the measure; means and standard deviations let a single NaN or 1e9 blind them for a whole window. What is judged is
the same on all ranks, so they agree without asking. After too many skips the stage goes back (rollback.py).
"""

import math
from collections.abc import Sequence
from statistics import median

from ropewalk.checkpoint.state import TileMask
from ropewalk.recipe.gates import Guard

FEWEST = 32
"""Finite steps that must have been seen before a finite one can be called a spike."""
_LEAST_SHARES = {"loss": 0.02, "gradient norm": 0.75}
"""Of the median: a deviation is never less. A loss that stands still must not make a spike of every wiggle. A gradient
norm is clipped, and in sound training now and then seven times the median (docs/log.md): its spikes begin at ten."""
_NORMAL = 1.4826
UNSEEN: TileMask = (None, None, True)
"""A step without a label: no figure to remember, and no fault. It keeps its place, for steps are counted back by it."""


def judge_step(recent: Sequence[TileMask], loss: float, norm: float, *, guard: Guard) -> str:
    """Why a step with this loss and gradient norm must not be taken; empty if it may."""
    for name, value in (("loss", loss), ("gradient norm", norm)):
        if not math.isfinite(value):
            return f"the {name} is not finite"
    if guard.spike is None:
        return ""
    for name, value, before in (
        ("loss", loss, [sight[0] for sight in recent]),
        ("gradient norm", norm, [sight[1] for sight in recent]),
    ):
        known = [each for each in before[-guard.window :] if each is not None]
        if len(known) >= FEWEST:
            middle, deviation = spread(known, least_share=_LEAST_SHARES[name])
            if value > middle + guard.spike * deviation:
                away = (value - middle) / deviation
                return f"the {name}, {value:.4g}, is {away:.0f} deviations above the median {middle:.4g}"
    return ""


def spread(values: Sequence[float], *, least_share: float) -> tuple[float, float]:
    """The median, and the deviation from it that a normal distribution would have, at least that share of it."""
    middle = median(values)
    deviation = _NORMAL * median(abs(value - middle) for value in values)
    return middle, max(deviation, least_share * abs(middle), 1e-12)


def see(loss: float, norm: float, *, taken: bool) -> TileMask:
    """A step as it is remembered. A spike is remembered too: if it lasts it is the new level, and no spike any more."""
    finite = (value if math.isfinite(value) else None for value in (loss, norm))
    return next(finite), next(finite), taken


def is_astray(recent: Sequence[TileMask], *, guard: Guard) -> bool:
    """Whether more of the last steps were skipped than the guard allows."""
    return sum(not taken for _, _, taken in recent[-guard.window :]) > guard.skips
