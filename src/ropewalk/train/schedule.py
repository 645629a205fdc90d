"""Learning rate and annealing as pure functions of the step: nothing to save or restore, the same after any resume."""

import math

from ropewalk.recipe.spec import Schedule


def learning_rate(step: int, *, schedule: Schedule, peak: float, steps: int) -> float:
    """The rate of step ``step`` (from 0) out of ``steps``.

    It rises linearly over the first ``warmup`` share of the steps, reaching ``peak`` at the last of them, and then
    goes down to ``floor`` x peak at the stage's last step: as half a cosine, along a line, not at all, or (``wsd``:
    warm up, stay, decay) along a line over the last ``decay`` share only.
    """
    assert 0 <= step < steps
    rising = round(schedule.warmup * steps)
    if step < rising:
        return peak * (step + 1) / rising
    falling = max(1, round(schedule.decay * steps)) if schedule.shape == "wsd" else steps - rising
    # 0 at the last step of the plateau, 1 at the stage's last step.
    progress = max(0.0, (step + 1 - (steps - falling)) / falling)
    if schedule.shape == "cosine":
        share = (1 + math.cos(math.pi * progress)) / 2
    elif schedule.shape == "constant":
        share = 1.0
    else:
        share = 1 - progress
    return peak * (schedule.floor + (1 - schedule.floor) * share)


def annealing_share(step: int, *, steps: int) -> float:
    """How far step ``step`` (from 0) is from the former positions (0) to the new (1), which it is from ``steps`` on."""
    return step / steps if step < steps else 1.0
