"""The model folders that the parts of a run start from, and the checks that they are there."""

from pathlib import Path

from ropewalk.core.artifact import is_finished
from ropewalk.core.error import UserError
from ropewalk.core.run_folder import RunFolder
from ropewalk.plan.rank_setup import RankSetup, set_up_ranks
from ropewalk.recipe.spec import ModelSource, Recipe
from ropewalk.shape.find import find_model
from ropewalk.shape.read import read_shape
from ropewalk.shape.weight_files import weight_files


def stage_input(folder: RunFolder, recipe: Recipe, stage: int) -> Path:
    """The model folder that a stage extends."""
    return folder.trained(stage - 1) if stage else base_model(folder, recipe)


def base_model(folder: RunFolder, recipe: Recipe) -> Path:
    """The model folder that the run starts from. Raises UserError where a base has not all its weight files."""
    if isinstance(recipe.model, ModelSource):
        return folder.initial
    base = find_model(recipe.model)
    weight_files(base)  # before hours of preparing text for it
    return base


def rank_setup(recipe: Recipe, model: Path) -> RankSetup:
    """The setup of a recipe's ranks, for the model in the folder ``model``."""
    return set_up_ranks(recipe.parallel, read_shape(model))


def require(folder: Path, *, verb: str) -> Path:
    """Return ``folder`` if it is finished. Otherwise raise a UserError that names the verb to run first."""
    if not is_finished(folder):
        raise UserError(
            "an earlier part, which this one needs, is not done",
            where=str(folder),
            why="it is missing or unfinished",
            fix=f"run `ropewalk {verb} RECIPE` first, or `ropewalk run RECIPE` for all parts",
        )
    return folder


def require_new(out: Path) -> None:
    """Raise UserError if the new file or folder ``out`` exists already."""
    if out.exists():
        kind = "folder" if out.is_dir() else "file"
        raise UserError(
            f"the new {kind} is there already",
            where=str(out),
            why="nothing is ever overwritten",
            fix=f"name another {kind}, or remove it",
        )
