"""Learning rate and annealing as pure functions of the step: nothing to save or restore, the same after any resume."""

import math
from collections.abc import Callable, Mapping

from ropewalk.recipe.spec import Schedule

_FALLS: Mapping[str, Callable[[float], float]] = {
    "cosine": lambda progress: (1 + math.cos(math.pi * progress)) / 2,
    "linear": lambda progress: 1 - progress,
    "1-sqrt": lambda progress: 1 - math.sqrt(progress),
    "constant": lambda progress: 1.0,
}
"""What is left of the way from the peak down to the floor."""


def learning_rate(step: int, *, schedule: Schedule, peak: float, steps: int) -> float:
    """The rate of step ``step`` (from 0) out of ``steps``.

    It rises linearly over the first ``warmup`` share of the steps, reaching ``peak`` at the last of them, and then
    goes down to ``floor`` x peak at the stage's last step: as half a cosine, along a line, not at all, or (``wsd``:
    warm up, stay, decay) over the last ``decay`` share only, by ``decay_shape``.

    Schedulers that give the rate before a step's number is known begin at 0 and never use their last value: our step s
    has their rate of s + 1.
    """
    assert 0 <= step < steps
    rising = round(schedule.warmup * steps)
    if step < rising:
        return peak * (step + 1) / rising
    falling = max(1, round(schedule.decay * steps)) if schedule.shape == "wsd" else steps - rising
    # 0 at the last step of the plateau, 1 at the stage's last step.
    progress = max(0.0, (step + 1 - (steps - falling)) / falling)
    share = _FALLS[schedule.decay_shape if schedule.shape == "wsd" else schedule.shape](progress)
    return peak * (schedule.floor + (1 - schedule.floor) * share)


def annealing_share(step: int, *, steps: int) -> float:
    """How far step ``step`` (from 0) is from the former positions (0) to the new (1), which it is from ``steps`` on."""
    return step / steps if step < steps else 1.0
