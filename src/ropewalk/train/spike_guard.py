"""Decide which steps are skipped: the loss or gradient norm is not finite, or is far above that of the last steps.

"Far" is measured in deviations, and a deviation is 1.4826 x the median distance from the median. So one extreme value
changes neither the centre nor the scale. Means and standard deviations would be useless for a whole window after a
single NaN or 1e9. All ranks judge the same numbers, so they agree without a message. After too many skipped steps the
stage goes back to a checkpoint (rollback.py).
"""

import math
from collections.abc import Sequence
from statistics import median

from ropewalk.checkpoint.state import StepRecord
from ropewalk.recipe.gates import Guard

FEWEST = 32
"""The number of finite steps that are needed before a finite value can count as a spike; at most half the window."""
_LEAST_SHARES = {"loss": 0.02, "gradient norm": 0.75}
"""The smallest deviation, as a share of the median. With a constant loss, small changes must not count as spikes. A
gradient norm is clipped; in normal training it is sometimes seven times the median (docs/log.md), so its spikes begin
at ten times."""
_NORMAL = 1.4826
UNSEEN: StepRecord = (None, None, True)
"""A step without a label: it has no loss and no fault. It still has an entry, because steps are counted by entries."""


def judge_step(recent: Sequence[StepRecord], loss: float, norm: float, *, guard: Guard) -> str:
    """Return why a step with this loss and gradient norm must not be taken; empty if it may be taken.

    ``recent`` holds the last steps, oldest first.
    """
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
        if len(known) >= min(FEWEST, max(1, guard.window // 2)):
            middle, deviation = spread(known, least_share=_LEAST_SHARES[name])
            if value > middle + guard.spike * deviation:
                away = (value - middle) / deviation
                return f"the {name}, {value:.4g}, is {away:.0f} standard deviations above the median {middle:.4g}"
    return ""


def spread(values: Sequence[float], *, least_share: float) -> tuple[float, float]:
    """Return the median and the deviation.

    For a normal distribution this is the standard deviation. It is at least ``least_share`` of the median.
    """
    middle = median(values)
    deviation = _NORMAL * median(abs(value - middle) for value in values)
    return middle, max(deviation, least_share * abs(middle), 1e-12)


def see(loss: float, norm: float, *, taken: bool) -> StepRecord:
    """Return a step as an entry of the guard's memory.

    A spike is an entry too: if the high level lasts, it becomes the new median and is no longer a spike.
    """
    finite = (value if math.isfinite(value) else None for value in (loss, norm))
    return next(finite), next(finite), taken


def is_astray(recent: Sequence[StepRecord], *, guard: Guard) -> bool:
    """Return whether more of the last steps were skipped than the guard allows."""
    return sum(not taken for _, _, taken in recent[-guard.window :]) > guard.skipped_steps
