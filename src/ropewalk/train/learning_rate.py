"""Learning rate and RoPE interpolation as pure functions of the step.

So there is nothing to save or restore, and the values are the same after any resume.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ropewalk.core.error import UserError
from ropewalk.core.quantity import format_count
from ropewalk.recipe.stage import Schedule, Stage

_FALLS: Mapping[str, Callable[[float], float]] = {
    "cosine": lambda progress: (1 + math.cos(math.pi * progress)) / 2,
    "linear": lambda progress: 1 - progress,
    "1-sqrt": lambda progress: 1 - math.sqrt(progress),
    "constant": lambda progress: 1.0,
}
"""The decay shapes: from progress (0 to 1) to the remaining share of the way from peak to floor."""
RATES, STOP = "rates", "stop"
"""Keys of the plan that a checkpoint stores."""


def learning_rate(step: int, *, schedule: Schedule, peak: float, steps: int, warmup_steps: int | None = None) -> float:
    """Return the learning rate of step ``step`` (from 0) out of ``steps``.

    The rate rises linearly over the first ``warmup`` share of the steps, and reaches ``peak`` at the last of them. If
    the stage began as a shorter one, the rise takes ``warmup_steps`` steps instead. Then the rate falls to
    ``floor`` x peak at the stage's last step: as half a cosine, linearly, or not at all (constant). With ``wsd``
    (warm up, stay, decay) it falls only over the last ``decay`` share, by ``decay_shape``.

    Schedulers that set the rate before a step's number is known begin at 0 and never use their last value. Our step s
    has their rate of step s + 1.
    """
    assert 0 <= step < steps
    rising = round(schedule.warmup * steps) if warmup_steps is None else warmup_steps
    if step < rising:
        return peak * (step + 1) / rising
    falling = _falling_steps(schedule, steps) if schedule.shape == "wsd" else steps - rising
    # Progress is 0 at the last step of the plateau, and 1 at the stage's last step.
    progress = max(0.0, (step + 1 - (steps - falling)) / falling)
    share = _FALLS[schedule.decay_shape if schedule.shape == "wsd" else schedule.shape](progress)
    return peak * (schedule.floor + (1 - schedule.floor) * share)


def _falling_steps(schedule: Schedule, steps: int) -> int:
    return max(1, round(schedule.decay * steps))


@dataclass(frozen=True, slots=True)
class Rates:
    """The learning rates of all steps of a stage. A longer stage must keep the rates of the steps already taken."""

    peak: float
    schedule: Schedule
    steps: int
    warmup_steps: int

    def at(self, step: int) -> float:
        """Return the learning rate of step ``step``, counted from 0."""
        return learning_rate(
            step, schedule=self.schedule, peak=self.peak, steps=self.steps, warmup_steps=self.warmup_steps
        )

    @property
    def plateau_steps(self) -> int | None:
        """The number of ``wsd`` steps before the decay; None for other shapes. A longer stage can resume from there."""
        if self.schedule.shape != "wsd":
            return None
        return max(0, self.steps - _falling_steps(self.schedule, self.steps))

    def continuing(self, before: "Rates") -> "Rates":
        """Return these rates with the warm-up steps of ``before``, if the warm-up share is the same.

        Without this, the same share of more steps would be a longer warm-up.
        """
        same_share = self.schedule.warmup == before.schedule.warmup
        return replace(self, warmup_steps=before.warmup_steps) if same_share else self

    def first_change(self, before: "Rates", *, taken: int) -> int | None:
        """Return the first of ``taken`` steps, from 0, whose rate in ``before`` differs; None if all are equal."""
        both = min(taken, self.steps, before.steps)
        changed = (step for step in range(both) if not math.isclose(self.at(step), before.at(step), rel_tol=1e-9))
        return next(changed, None if taken <= self.steps else self.steps)

    def to_json(self) -> dict[str, Any]:
        """Return the rates as JSON-like data, as a checkpoint stores them."""
        return {
            "peak": self.peak,
            "schedule": self.schedule.model_dump(mode="json"),
            "steps": self.steps,
            "warmup_steps": self.warmup_steps,
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> "Rates":
        """Return the rates from the data of ``to_json``."""
        return Rates(**{**data, "schedule": Schedule.model_validate(data["schedule"])})


def rates_of(spec: Stage) -> Rates:
    """Return the learning rates of a stage that begins."""
    return Rates(spec.lr, spec.schedule, spec.steps, round(spec.schedule.warmup * spec.steps))


def refuse_rates(now: Rates, before: Rates, *, taken: int, where: str) -> UserError:
    """Return the error for a stage that took ``taken`` steps by ``before`` and cannot continue by ``now``.

    ``now.first_change(before, taken=taken)`` must not be None.
    """
    step = now.first_change(before, taken=taken)
    assert step is not None
    if taken > now.steps:
        what = f"the stage has already taken {format_count(taken, 'step')}, but the recipe now has {now.steps}"
        return UserError(
            "a stage cannot become shorter than the steps that it has taken",
            where=where,
            why=what,
            fix=f"set tokens to at least {format_count(taken, 'step')}, or give the run another folder (run=...)",
        )
    changed = (
        f"step {step + 1} had the rate {before.at(step):.3g}, and with this recipe it would have {now.at(step):.3g}"
    )
    falls = now.schedule.shape in ("cosine", "linear") and now.schedule == before.schedule and now.peak == before.peak
    shape = f"; the shape {now.schedule.shape} decays over all steps of a stage, so a longer stage has other rates"
    gone = (
        "; the rate has decayed since then, and there is no checkpoint from before the decay"
        if now.plateau_steps
        else ""
    )
    return UserError(
        "the stage cannot continue with these learning rates",
        where=where,
        why=f"of the {format_count(taken, 'step')} that it has taken, {changed}{shape if falls else gone}",
        fix="continue with the run's own recipe, which is recipe.yaml in its folder, append a new stage, which has its "
        "own warm-up, or give the run another folder (run=...); a stage of shape constant or wsd can become longer",
    )


def interpolation_share(step: int, *, steps: int) -> float:
    """Return the share of the way from the former positions (0) to the new ones (1) at step ``step``, counted from 0.

    The share rises linearly, and it is 1 from step ``steps`` on.
    """
    return step / steps if step < steps else 1.0
