"""Decides for a verb what a recipe leaves open, before anything else reads it."""

from ropewalk.commands.claim import read_base_shape
from ropewalk.core.error import UserError
from ropewalk.core.progress import say
from ropewalk.parallel.torchrun import count_started, is_first, is_started
from ropewalk.plan.settle import Settled, find_count, settle_recipe, shape_of_init
from ropewalk.recipe.spec import ModelSource, Recipe
from ropewalk.shape.model_shape import ModelShape


def settle_aloud(recipe: Recipe) -> Recipe:
    """``recipe`` with every open count decided, and a line for people on each decision."""
    settled = settle_given(recipe)
    if is_first():
        for line in settled.lines:
            say(line)
    return settled.recipe


def settle_given(recipe: Recipe) -> Settled:
    """``recipe`` with every open count decided, for the ranks of torchrun where it started this process.

    Raises UserError where its base cannot be read.
    """
    if not recipe.open_keys:
        return Settled(recipe, ())
    return settle_recipe(recipe, read_any_shape(recipe), started=count_ranks_started())


def decide_elsewhere(recipe: Recipe) -> tuple[Recipe, list[str]]:
    """``recipe`` with its open counts decided for other machines, and the decisions as overrides for them.

    Raises UserError where counts are open and the recipe does not say what the other machines have.
    """
    if recipe.open_keys and recipe.hardware is None:
        raise UserError(
            "counts are open",
            where=", ".join(recipe.open_keys),
            why="they are auto, and this machine may have other devices than those that train",
            fix="name the devices (hardware: h100-sxm x 8, nodes: 2), or give these counts",
        )
    settled = settle_aloud(recipe)
    return settled, [f"{key}={find_count(settled, key)}" for key in recipe.open_keys]


def count_ranks_started() -> int | None:
    """The ranks that torchrun started; None where it started none."""
    return count_started() if is_started() else None


def read_any_shape(recipe: Recipe) -> ModelShape:
    """The shape of the model that ``recipe`` starts from, read or made from its ``init``."""
    if isinstance(recipe.model, ModelSource):
        return shape_of_init(recipe.model.init)
    shape = read_base_shape(recipe)
    assert shape is not None
    return shape
