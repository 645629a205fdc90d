"""Learning rate and annealing as pure functions of the step: nothing to save or restore, the same after any resume."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ropewalk.core.error import UserError
from ropewalk.recipe.stage import Schedule, Stage

_FALLS: Mapping[str, Callable[[float], float]] = {
    "cosine": lambda progress: (1 + math.cos(math.pi * progress)) / 2,
    "linear": lambda progress: 1 - progress,
    "1-sqrt": lambda progress: 1 - math.sqrt(progress),
    "constant": lambda progress: 1.0,
}
"""What is left of the way from the peak down to the floor."""
RATES, UNTIL = "rates", "until"
"""Names in the plan that a checkpoint keeps."""


def learning_rate(step: int, *, schedule: Schedule, peak: float, steps: int, warmup_steps: int | None = None) -> float:
    """The rate of step ``step`` (from 0) out of ``steps``.

    It rises linearly over the first ``warmup`` share of the steps (over ``warmup_steps`` where the stage began as a
    shorter one), reaching ``peak`` at the last of them, and then goes down to ``floor`` x peak at the stage's last
    step: as half a cosine, along a line, not at all, or (``wsd``: warm up, stay, decay) over the last ``decay`` share
    only, by ``decay_shape``.

    Schedulers that give the rate before a step's number is known begin at 0 and never use their last value: our step s
    has their rate of s + 1.
    """
    assert 0 <= step < steps
    rising = round(schedule.warmup * steps) if warmup_steps is None else warmup_steps
    if step < rising:
        return peak * (step + 1) / rising
    falling = _falling_steps(schedule, steps) if schedule.shape == "wsd" else steps - rising
    # 0 at the last step of the plateau, 1 at the stage's last step.
    progress = max(0.0, (step + 1 - (steps - falling)) / falling)
    share = _FALLS[schedule.decay_shape if schedule.shape == "wsd" else schedule.shape](progress)
    return peak * (schedule.floor + (1 - schedule.floor) * share)


def _falling_steps(schedule: Schedule, steps: int) -> int:
    return max(1, round(schedule.decay * steps))


@dataclass(frozen=True, slots=True)
class Rates:
    """The learning rate of every step of a stage: what a longer stage must leave as it was for the steps taken."""

    peak: float
    schedule: Schedule
    steps: int
    warmup_steps: int

    def at(self, step: int) -> float:
        """The rate of step ``step``, from 0."""
        return learning_rate(
            step, schedule=self.schedule, peak=self.peak, steps=self.steps, warmup_steps=self.warmup_steps
        )

    @property
    def plateau_steps(self) -> int | None:
        """Steps of ``wsd`` before its rate goes down, from where a longer stage can go on; None for other shapes."""
        if self.schedule.shape != "wsd":
            return None
        return max(0, self.steps - _falling_steps(self.schedule, self.steps))

    def continuing(self, before: "Rates") -> "Rates":
        """These rates with the warm-up that was begun as ``before`` says: a share of more steps would be longer."""
        same_share = self.schedule.warmup == before.schedule.warmup
        return replace(self, warmup_steps=before.warmup_steps) if same_share else self

    def first_change(self, before: "Rates", *, taken: int) -> int | None:
        """The first of ``taken`` steps, from 0, that had another rate by ``before``; None if all had these."""
        both = min(taken, self.steps, before.steps)
        changed = (step for step in range(both) if not math.isclose(self.at(step), before.at(step), rel_tol=1e-9))
        return next(changed, None if taken <= self.steps else self.steps)

    def to_json(self) -> dict[str, Any]:
        """As a checkpoint keeps it."""
        return {
            "peak": self.peak,
            "schedule": self.schedule.model_dump(mode="json"),
            "steps": self.steps,
            "warmup_steps": self.warmup_steps,
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> "Rates":
        """Read back what ``to_json`` gave."""
        return Rates(**{**data, "schedule": Schedule.model_validate(data["schedule"])})


def rates_of(spec: Stage) -> Rates:
    """The rates of a stage that begins."""
    return Rates(spec.lr, spec.schedule, spec.steps, round(spec.schedule.warmup * spec.steps))


def refuse_rates(now: Rates, before: Rates, *, taken: int, where: str) -> UserError:
    """Why a stage that took ``taken`` steps by ``before`` cannot go on by ``now``; its first change is among them."""
    step = now.first_change(before, taken=taken)
    assert step is not None
    if taken > now.steps:
        what = f"the stage has taken {taken} steps, and the recipe now asks for {now.steps}"
        return UserError(
            "a stage cannot be made shorter than it is",
            where=where,
            why=what,
            fix=f"ask for tokens of {taken} steps at least, or give the run another folder (run=...)",
        )
    changed = f"step {step + 1} had the rate {before.at(step):.3g}, and would have had {now.at(step):.3g}"
    falls = now.schedule.shape in ("cosine", "linear") and now.schedule == before.schedule and now.peak == before.peak
    shape = f"; {now.schedule.shape} goes down over all of a stage's steps, so that a longer stage is another one"
    gone = "; the rate has gone down since, and no checkpoint from before that is left" if now.plateau_steps else ""
    return UserError(
        "the stage cannot go on at these learning rates",
        where=where,
        why=f"of the {taken} steps that it has taken, {changed}{shape if falls else gone}",
        fix="append a stage for what is to come, which warms up anew, or give the run another folder (run=...); "
        "a stage of shape constant or wsd can be made longer",
    )


def annealing_share(step: int, *, steps: int) -> float:
    """How far step ``step`` (from 0) is from the former positions (0) to the new (1), which it is from ``steps`` on."""
    return step / steps if step < steps else 1.0
