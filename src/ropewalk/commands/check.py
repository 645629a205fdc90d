"""``ropewalk check``: the rules that a recipe breaks, and the forecast cost of its stages."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from ropewalk.commands.claim import read_base_shape
from ropewalk.core.artifact import is_finished
from ropewalk.core.run_folder import RunFolder
from ropewalk.corpus.tokens.corpus_folder import open_corpus
from ropewalk.plan.forecast import forecast_recipe
from ropewalk.plan.named_hardware import check_hardware
from ropewalk.plan.unfit import find_unfit
from ropewalk.recipe.check import base_context, check
from ropewalk.recipe.check_corpus import check_corpus
from ropewalk.recipe.spec import Recipe
from ropewalk.recipe.stretch import describe_stages
from ropewalk.shape.guessed import describe_guess


def check_recipe(recipe: Recipe) -> dict[str, Any]:
    """Every rule that the recipe breaks, and the forecast cost of its stages."""
    shape = read_base_shape(recipe)
    folder = RunFolder(Path(recipe.run))
    findings = check(recipe, shape)
    if is_finished(folder.corpus):
        findings += check_corpus(recipe, open_corpus(folder.corpus), base_context(recipe, shape))
    plans = [] if shape is None else forecast_recipe(recipe, shape)
    if shape is not None and plans:
        findings += [*check_hardware(recipe, plans[0].machine), *find_unfit(recipe, shape, plans)]
    errors = sum(finding.level == "error" for finding in findings)
    lines = [f"{finding.level}: {finding.key}: {finding.message} ({finding.source})" for finding in findings]
    positions = [] if shape is None else list(describe_stages(recipe, shape))
    guessed = "" if shape is None else describe_guess(shape.architecture)
    lines += [guessed] if guessed else []
    lines += [f"stage {index} positions: {words}" for index, layers in enumerate(positions) for words in layers]
    for index, plan in enumerate(plans):
        lines += [f"stage {index}", plan.describe()]
    lines.append(f"{_count(errors, 'error')}, {_count(len(findings) - errors, 'warning')}")
    return {
        "errors": errors,
        "findings": [asdict(finding) for finding in findings],
        "positions": positions,
        **({"guessed": guessed} if guessed else {}),
        "plans": [asdict(plan) for plan in plans],
        "text": "\n".join(lines),
    }


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
