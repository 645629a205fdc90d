"""What a stage makes of a model's positions, before anything is built: asked by the rules, and by the forecast."""

from collections.abc import Iterator

from ropewalk.core.error import UserError
from ropewalk.recipe.spec import Recipe
from ropewalk.recipe.stage import Stage
from ropewalk.rope.longrope_search import seed_factors
from ropewalk.rope.scaling import LongRope, Rope
from ropewalk.shape.model_shape import ModelShape


def stretch_stage(stage: Stage, shape: ModelShape) -> ModelShape:
    """The model of ``shape`` with the positions of ``stage``.

    Factors that are still to be searched are YaRN's here, which the search starts from. Raises UserError where method,
    pattern and model do not go together.
    """
    pattern = tuple(
        rule if rule.rope is None else rule.model_copy(update={"rope": _foresee(rule.rope, stage, shape)})
        for rule in stage.layers
    )
    return shape.stretch(pattern, rope=_foresee(stage.rope, stage, shape), context_tokens=stage.reach_tokens)


def stretch_stages(recipe: Recipe, shape: ModelShape) -> Iterator[ModelShape]:
    """The model of each stage, as far as each can be made of the one before."""
    for stage in recipe.stages:
        try:
            shape = stretch_stage(stage, shape)
        except UserError:  # told by recipe/check, with its figures
            return
        yield shape


def describe_stages(recipe: Recipe, shape: ModelShape) -> Iterator[list[str]]:
    """What each stage does to the layers of the one before, in words, and what it inherits."""
    for after in stretch_stages(recipe, shape):
        yield shape.describe(after.positions)
        shape = after


def _foresee(method: Rope, stage: Stage, shape: ModelShape) -> Rope:
    if not isinstance(method, LongRope) or method.long_factor is not None:
        return method
    return method.model_copy(update={"long_factor": seed_factors(shape.base_rope, stage.reach_tokens)["yarn"]})
