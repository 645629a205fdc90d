"""Why a plan has not another value somewhere: the same recipe with that value, planned and compared in words.

Whatever the recipe leaves open beside that value is decided anew, so the other value is seen at its best.
"""

from collections.abc import Sequence
from dataclasses import fields

from ropewalk.core.error import UserError
from ropewalk.core.quantity import format_bytes, format_seconds
from ropewalk.plan.forecast import forecast_recipe
from ropewalk.plan.named_hardware import check_hardware
from ropewalk.plan.plan import Plan
from ropewalk.plan.settle import settle_recipe
from ropewalk.plan.step_time import StepTime
from ropewalk.plan.unfit import describe_lack
from ropewalk.recipe.check import check
from ropewalk.recipe.load import apply_override, parse_recipe
from ropewalk.recipe.recipe_file import list_file_keys
from ropewalk.recipe.spec import Recipe
from ropewalk.shape.model_shape import ModelShape

_SAME = 0.005
"""Times that differ by less are called equal."""
_TOLD_TERMS = 2


def explain_why_not(
    recipe: Recipe, shape: ModelShape, override: str, plans: Sequence[Plan], *, started: int | None = None
) -> str:
    """A line on ``recipe`` with ``override`` (``parallel.context_parallel=2``), beside its ``plans``.

    Raises UserError where the override leads to no recipe, or to one of another model.
    """
    data = list_file_keys(recipe)
    apply_override(data, override)
    asked = parse_recipe(data, where=f"--why-not {override}")
    if asked.model != recipe.model:
        raise UserError(
            "another model has another plan",
            where=f"--why-not {override}",
            why="settings of one model are compared",
            fix=f"ropewalk check RECIPE {override}",
        )
    changed = settle_recipe(asked, shape, started=started).recipe
    if changed == recipe:
        return f"{override} is what the recipe has"
    errors = [finding for finding in check(changed, shape) if finding.level == "error"]
    others = [] if errors else forecast_recipe(changed, shape)
    if others:
        errors = [each for each in check_hardware(changed, others[0].machine) if each.level == "error"]
    if errors or len(others) < len(plans):
        told = "; ".join(f"{finding.key}: {finding.message}" for finding in errors) or "its stages cannot be planned"
        return f"{override} is not possible: {told}"
    lacks = [f"stage {index}: {describe_lack(plan)}" for index, plan in enumerate(others) if not plan.fits]
    if lacks:
        return f"{override} does not fit: {'; '.join(lacks)}"
    advice = " (set it)" if override.startswith(("parallel.", "stages.")) else ""
    if any(plan.savings.eight_bit for plan in others) and not any(plan.savings.eight_bit for plan in plans):
        advice = " (auto never takes it: moments are rounded to 8 bits)"
    return _compare(override, plans, others, advice)


def _compare(override: str, plans: Sequence[Plan], others: Sequence[Plan], advice: str) -> str:
    """``advice`` is added where the other value is faster."""
    now, then = (sum(plan.seconds for plan in each) for each in (plans, others))
    peaks = [max(plan.memory.peak_bytes for plan in each) for each in (plans, others)]
    told = [format_bytes(peak) for peak in peaks]
    memory = f"a rank needs {told[1]}" + (f" instead of {told[0]}" if told[0] != told[1] else " as well")
    if not all(plan.fits for plan in plans):
        return f"{override} fits, as the recipe does not, and takes {format_seconds(then)}; {memory}"
    if abs(then / now - 1) < _SAME:
        return f"{override} takes as long, {format_seconds(then)}; {memory}"
    terms = ", ".join(_list_differences(plans, others, slower=then > now))
    seconds = f"{format_seconds(then)} instead of {format_seconds(now)}"
    if then > now:
        return f"{override} takes {then / now:.2f} times as long, {seconds}: {terms}; {memory}"
    return f"{override} is faster{advice}: it takes {then / now:.2f} times as long, {seconds}: {terms}; {memory}"


def _list_differences(plans: Sequence[Plan], others: Sequence[Plan], *, slower: bool) -> list[str]:
    """The terms that differ most, in the direction of the whole."""
    sign, found = 1 if slower else -1, list[tuple[float, str]]()
    for field in fields(StepTime):
        now, then = (sum(plan.steps * getattr(plan.times, field.name) for plan in each) for each in (plans, others))
        found.append((sign * (then - now), field.name.replace("_", " ")))
    more = "more" if slower else "less"
    return [f"{name} {format_seconds(seconds)} {more}" for seconds, name in sorted(found, reverse=True)[:_TOLD_TERMS]
            if seconds > 0]  # fmt: skip
