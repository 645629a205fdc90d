"""Compares a recipe's mix with the ratio study that it names: shares and budgets beyond what was measured."""

from collections.abc import Iterator

from ropewalk.core.quantity import format_amount
from ropewalk.evaluate.study_fit import is_accepted, read_study_fit, tell_laws
from ropewalk.recipe.finding import Finding
from ropewalk.recipe.role_shares import role_shares
from ropewalk.recipe.spec import Recipe

_SOURCE = "docs/sweep.md"


def find_unmeasured(recipe: Recipe) -> Iterator[Finding]:
    """What the study cannot tell about the recipe's mix. Raises UserError where the study has no laws."""
    fit = read_study_fit(recipe.mix_study)
    if fit is None:
        return
    if recipe.model != fit.model:
        message = (
            f"the study measured {fit.model or 'a model from random weights'}, not this base: its shares may differ"
        )
        yield Finding("warning", "mix_study", message, _SOURCE, "study a mix on this base (docs/corpus-mix.md)")
    if not is_accepted(fit):
        message = f"its laws are not used, because they do not predict what was held out: {'; '.join(tell_laws(fit))}"
        yield Finding("warning", "mix_study", message, _SOURCE, "more arms or tokens in the study")
    for index, stage in enumerate(recipe.stages):
        shares = role_shares(recipe, stage)
        for kind, law in fit.laws.items():
            if not law.covers(shares[kind]):
                low, high = law.shares
                message = (
                    f"{shares[kind]:.1%} {kind} text lies outside of the study's {low:.1%} to {high:.1%}: nothing is "
                    "known about its losses there"
                )
                fix = "a share within the study's, or an arm of the study at this share"
                yield Finding("warning", f"stages.{index}.mix", message, _SOURCE, fix)
        low, high = fit.laws["general"].tokens
        if not low <= stage.tokens <= high:
            budgets = f"{format_amount(low)} to {format_amount(high)}"
            message = f"{format_amount(stage.tokens)} tokens lie outside of the study's {budgets}"
            fix = "tokens within the study's, or a longer study"
            yield Finding("warning", f"stages.{index}.tokens", message, _SOURCE, fix)
