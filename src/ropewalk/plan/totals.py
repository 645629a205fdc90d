"""What a whole run comes to: all stages, evaluation and preparation, in hours, GPU-hours and money; and what limits it.

Evaluation (plan/evaluation_time.py) is shared by all ranks. Preparation runs on the processors of a node, so it has
core-hours of its own and no part in the GPU-hours. Neither was fitted to measured runs. What is measured while a stage
trains, and saves, are left out; plan/simulate.py has saves.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

from ropewalk.core.quantity import OPEN, format_amount, format_length, format_seconds
from ropewalk.plan.evaluation_time import estimate_evaluation
from ropewalk.plan.forecast import forecast_recipe
from ropewalk.plan.plan import Plan
from ropewalk.plan.settle import settle_recipe
from ropewalk.plan.step_time import StepTime
from ropewalk.recipe.spec import Recipe
from ropewalk.shape.model_shape import ModelShape

_CORE_SECONDS = 11.5 * 3600 / 20e9
"""Of preparing one token on one core: 20B tokens take 11 to 12 core-hours (docs/corpus-workers.md)."""


@dataclass(frozen=True, slots=True)
class Totals:
    """Of a whole run. ``dollars`` are None where the price of a device is not known."""

    training_seconds: float
    evaluation_seconds: float
    preparation_core_seconds: float
    device_hours: float
    dollars: float | None
    limits: str
    """The term of a step that takes most time over all stages, with its share."""

    def describe(self, device: str) -> Iterator[str]:
        """Lines for people, in the columns of a plan."""
        cost = "" if self.dollars is None else f", ${format_amount(self.dollars)}"
        training, evaluation = map(format_seconds, (self.training_seconds, self.evaluation_seconds))
        hours = f"{format_amount(self.device_hours)} hours of a {device}{cost}"
        yield f"{'total':<11} {training} of training, {evaluation} of evaluation: {hours}"
        yield f"{'prepare':<11} {format_amount(self.preparation_core_seconds / 3600)} core-hours"
        yield f"{'limits':<11} {self.limits}"


def total_up(recipe: Recipe, shape: ModelShape, plans: Sequence[Plan]) -> Totals:
    """The totals of the ``plans`` of ``recipe``; ``shape`` is the base's."""
    training = sum(plan.seconds for plan in plans)
    evaluation = estimate_evaluation(recipe, shape, plans[-1])
    machine, ranks = plans[-1].machine, plans[-1].ranks
    hours = ranks * (training + evaluation) / 3600
    terms = Counter[str]()
    for plan, field in ((plan, field) for plan in plans for field in fields(StepTime)):
        terms[field.name] += plan.steps * getattr(plan.times, field.name)
    name, seconds = terms.most_common(1)[0]
    return Totals(
        training_seconds=training,
        evaluation_seconds=evaluation,
        preparation_core_seconds=estimate_preparation(sum(plan.tokens for plan in plans)),
        device_hours=hours,
        dollars=None if machine.dollars_per_hour is None else hours * machine.dollars_per_hour,
        limits=f"{name.replace('_', ' ')}, {seconds / training:.0%} of the training",
    )


def estimate_preparation(tokens: int) -> float:
    """Seconds of one core to read, clean, de-duplicate and tokenise text of so many tokens."""
    return _CORE_SECONDS * tokens


def describe_next_length(recipe: Recipe, shape: ModelShape, plans: Sequence[Plan]) -> str:
    """A line on twice the last stage's length: its time and price over those of ``plans``, and whether it fits.

    Context ranks and replicas are chosen anew for it.
    """
    stage = recipe.stages[-1]
    length = 2 * stage.context_length
    longer = stage.model_copy(update={"context_length": length, "step_tokens": max(stage.step_tokens, length)})
    parallel = recipe.parallel.model_copy(update={"context_parallel": OPEN, "replicas": OPEN})
    changed = recipe.model_copy(update={"stages": (*recipe.stages[:-1], longer), "parallel": parallel})
    machine = plans[-1].machine  # a CPU is not measured again
    others = forecast_recipe(settle_recipe(changed, shape, machine=machine).recipe, shape, machine=machine)
    if len(others) < len(plans):
        return f"{'next':<11} {format_length(length)} cannot be planned"
    now, then = plans[-1], others[-1]
    cost = "" if then.dollars is None else f", ${format_amount(then.dollars)}"
    fits = "" if then.fits else "; it does not fit"
    told = f"{format_length(length)} takes {then.seconds / now.seconds:.2f} times as long for as many tokens"
    return f"{'next':<11} {told}{cost}{fits}"
