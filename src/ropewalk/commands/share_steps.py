"""A stage of a study's cell begins from a checkpoint of another cell's shorter stage, where it would take its steps.

Cells that differ in the tokens of a stage alone read the same sequences in the same order. With ``constant`` or
``wsd`` and warm-ups of equally many steps, they also take their first steps at the same rates, up to where the shorter
one's rate begins to fall. So these steps are taken once for all budgets, and each cell ends with the weights that it
would have alone, bit for bit. With another schedule every step has another rate, and nothing is shared.
"""

from collections.abc import Sequence

from ropewalk.commands.link_files import link_files
from ropewalk.core.artifact import is_finished
from ropewalk.core.digest import digest_value
from ropewalk.core.progress import say
from ropewalk.core.record import append_metrics, read_metrics
from ropewalk.core.run_folder import RunFolder
from ropewalk.recipe.spec import Recipe
from ropewalk.train.learning_rate import rates_of
from ropewalk.train.metrics_log import MetricsLog

_OF_LENGTH = ("tokens", "lr", "schedule")
"""Keys of a stage that decide how many steps it takes and at which rates: these are compared step by step."""
_AFTER = ("gate", "merge_with_base")
Donor = tuple[str, Recipe, RunFolder]
"""The name of another cell, its recipe and its folder."""


def link_steps(recipe: Recipe, folder: RunFolder, donors: Sequence[Donor], stage: int) -> None:
    """Link the checkpoint of the most steps that the stage shares with another cell's finished one, if there is any.

    Nothing is linked into a stage that has begun.
    """
    found = [
        (step, name, there)
        for name, other, there in donors
        if (step := find_shared_step(recipe, other, there, stage)) is not None
    ]
    if folder.is_trained(stage) or not found:
        return
    step, name, there = max(found, key=lambda each: each[0])
    copy_metrics(there, folder, stage, last_step=step)
    link_files(there.checkpoint(stage, step), folder.checkpoint(stage, step))
    say(f"stage {stage}: begins from step {step} of {name}, whose steps are the same")


def find_shared_step(recipe: Recipe, other: Recipe, there: RunFolder, stage: int) -> int | None:
    """The newest checkpoint of a finished stage of ``other`` all of whose steps are also steps of ``recipe``."""
    if len(other.stages) <= stage or not is_finished(there.trained(stage)) or there.rollbacks(stage).exists():
        return None
    if recipe.corpus.when_dry == "spread" or _digest_steps(recipe, stage) != _digest_steps(other, stage):
        return None  # spread: the shares of a longer stage may differ from its first sequence on
    ours, theirs = rates_of(recipe.stages[stage]), rates_of(other.stages[stage])
    steps = (step for step in there.list_steps(stage) if ours.first_change(theirs, taken=step) is None)
    return next(steps, None)


def _digest_steps(recipe: Recipe, stage: int) -> str:
    """The digest of what decides the steps of a stage, but for their number and their rates."""
    data = recipe.to_json()
    free = (*_OF_LENGTH, *_AFTER)
    own = {key: value for key, value in data["stages"][stage].items() if key not in free}
    first = [data["model"], data["corpus"], recipe.corpus_seed, recipe.seed, data["parallel"], data["evaluate"]]
    return digest_value([*first, data["stages"][:stage], own])


def copy_metrics(there: RunFolder, folder: RunFolder, stage: int, *, last_step: int | None = None) -> None:
    """The metrics of a stage of ``there``, up to ``last_step`` if one is given: its later steps have other rates.

    They take the place of what ``folder`` has of the stage: steps before its first checkpoint, or half a copy.
    """
    if not there.metrics.exists():
        return
    MetricsLog(folder.metrics, writes=True).rewind(stage, 0)
    theirs = (metric for metric in read_metrics(there.metrics) if metric.stage == stage)
    append_metrics(folder.metrics, [each for each in theirs if last_step is None or each.step <= last_step])
