"""Chooses the checkpoint from which a trained stage can continue when a new recipe makes it longer.

A step that was taken keeps its learning rate and its sequences. So a constant stage continues from its end. ``wsd``
continues from the step where its rate began to fall, where a checkpoint is kept for this. A cosine of another length
differs from its first step on.
"""

import json
from pathlib import Path
from typing import Any

from ropewalk.core.error import UserError
from ropewalk.core.run_folder import RunFolder
from ropewalk.corpus.mix.planned_strata import plan_strata
from ropewalk.corpus.tokens.corpus_folder import open_corpus
from ropewalk.recipe.spec import Recipe
from ropewalk.train.learning_rate import RATES, Rates, rates_of, refuse_rates


def find_start(recipe: Recipe, held: Recipe, folder: RunFolder, stage: int) -> int:
    """The step of the newest checkpoint whose steps all have the rates that ``recipe`` gives them.

    ``held`` is the recipe in the run folder. Raises UserError where there is no such checkpoint.
    """
    steps = folder.list_steps(stage)
    if not steps:
        raise UserError(
            f"stage {stage} can no longer be changed",
            where=str(folder.checkpoints(stage)),
            why="it is trained, and there is no checkpoint of it to continue from",
            fix="append a stage, or give the run another folder (run=...)",
        )
    for step in steps:
        now, before = _compare(recipe, held, folder, stage, step)
        if steps[0] > now.steps:  # a smaller number of steps is refused: it would throw the last ones away
            break
        if now.first_change(before, taken=step) is None:
            return step
    now, before = _compare(recipe, held, folder, stage, steps[0])
    raise refuse_rates(now, before, taken=steps[0], where=f"stages.{stage}")


def refuse_other_shares(recipe: Recipe, held: Recipe, folder: RunFolder, stage: int) -> None:
    """Raise UserError if a longer stage would read other sequences from its first one on.

    This happens with ``when_dry: spread``: other sources give the tokens that a source lacks for the whole stage.
    """
    spec = recipe.stages[stage]
    if recipe.corpus.when_dry != "spread" or spec.steps == held.stages[stage].steps:
        return
    corpus, shares = open_corpus(folder.corpus), []
    for each in (held, recipe):
        own = each.stages[stage]
        amount = own.steps * own.step_sequences * own.context_length
        limits: dict[str, Any] = {"tokens": amount, "max_repeats": each.corpus.max_repeats}
        strata = plan_strata(corpus, each.mix(own), context_tokens=own.context_length, rules=each.rules(own), **limits)
        shares.append({stratum.name: stratum.share for stratum in strata})
    if shares[0] != shares[1]:
        name = next(name for name in shares[1] if shares[0].get(name) != shares[1][name])
        raise UserError(
            "the stage cannot be made longer",
            where=f"stages.{stage}.tokens",
            why=f"with when_dry: spread its mix would change from the first sequence: {name} would give "
            f"{shares[1][name]:.2%} instead of {shares[0].get(name, 0):.2%}",
            fix="append a stage, or give the run another folder (run=...)",
        )


def _compare(recipe: Recipe, held: Recipe, folder: RunFolder, stage: int, step: int) -> tuple[Rates, Rates]:
    before = _read_rates(folder.checkpoint_state(stage, step)) or rates_of(held.stages[stage])
    return rates_of(recipe.stages[stage]).continuing(before), before


def _read_rates(path: Path) -> Rates | None:
    """The rates by which a checkpoint's steps were taken; None if the file lacks them or cannot be read."""
    try:
        return Rates.from_json(json.loads(path.read_text(encoding="utf-8"))["plan"][RATES])
    except (OSError, ValueError, KeyError, TypeError):
        return None  # damaged: training will find this and take an older checkpoint
