"""Make a run folder ready for a recipe that goes on in it: what is stale goes, then the recipe changes.

In this order, so that a kill in between leaves a folder in which the same command finds the same to do.
"""

import json

import yaml

from ropewalk.commands.plan_growth import Growth
from ropewalk.commands.run_inputs import RunFolder
from ropewalk.core.artifact import discard, is_finished, write_whole
from ropewalk.core.progress import say
from ropewalk.recipe.spec import Recipe
from ropewalk.train.metrics_log import Journal


def grow(growth: Growth, recipe: Recipe, folder: RunFolder) -> None:
    """Carry out what ``plan_growth`` found. One process calls it, while it holds the folder."""
    for line in growth.lines:
        say(line)
    for path in growth.stale:
        discard(path)
    if growth.back is not None:
        _go_back(folder, *growth.back)
    if growth.changes and not is_finished(folder.root):
        write_recipe(recipe, folder)


def write_recipe(recipe: Recipe, folder: RunFolder) -> None:
    """Let the folder say that what lies in it is made from this recipe."""
    write_whole(folder.recipe, yaml.safe_dump(recipe.to_json(), sort_keys=False, allow_unicode=True))


def _go_back(folder: RunFolder, stage: int, step: int) -> None:
    """Forget all of a stage that came after one of its checkpoints."""
    for later in folder.list_steps(stage):
        if later > step:
            discard(folder.checkpoint(stage, later))
    history = folder.rollbacks(stage)
    if history.exists():  # those that the checkpoint has not lived through belonged to the steps that are gone
        lived = json.loads((folder.checkpoint(stage, step) / "state.json").read_text())["rollbacks"]
        write_whole(history, json.dumps(json.loads(history.read_text())[:lived], indent=1))
    Journal(folder.rows, writes=True).rewind(stage, step)
