"""Makes a run folder ready for a recipe that continues it: first stale files are removed, then the recipe is replaced.

The order matters: after a kill in between, the same command still finds the same work to do.
"""

import yaml

from ropewalk.commands.plan_growth import Growth
from ropewalk.core.artifact import discard, is_finished, write_whole
from ropewalk.core.progress import say, warn
from ropewalk.core.read_json import read_written
from ropewalk.core.run_folder import RunFolder
from ropewalk.core.strict_json import spell_json
from ropewalk.recipe.recipe_file import list_file_keys
from ropewalk.recipe.spec import Recipe
from ropewalk.train.metrics_log import MetricsLog


def grow(growth: Growth, recipe: Recipe, folder: RunFolder) -> None:
    """Carry out the plan of ``plan_growth``. One process calls this while it holds the folder."""
    for line in growth.lines:
        (warn if line.startswith("WARNING") else say)(line)
    for path in growth.stale:
        discard(path)
    if growth.back is not None:
        _go_back(folder, *growth.back)
    if growth.changes and not is_finished(folder.root):
        write_recipe(recipe, folder)


def write_recipe(recipe: Recipe, folder: RunFolder) -> None:
    """Write the recipe from which the folder's contents are made."""
    write_whole(folder.recipe, yaml.safe_dump(list_file_keys(recipe), sort_keys=False, allow_unicode=True))


def _go_back(folder: RunFolder, stage: int, step: int) -> None:
    """Remove everything of a stage that came after the checkpoint of ``step``."""
    for later in folder.list_steps(stage):
        if later > step:
            discard(folder.checkpoint(stage, later))
    history = folder.rollbacks(stage)
    if history.exists():  # rollbacks after this checkpoint belong to the removed steps
        lived = read_written(folder.checkpoint_state(stage, step), lambda facts: int(facts["rollbacks"]))
        write_whole(history, spell_json(read_written(history)[:lived], indent=1))
    MetricsLog(folder.metrics, writes=True).rewind(stage, step)
