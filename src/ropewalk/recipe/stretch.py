"""The model shapes that a recipe's stages make, before any model is built. The checks and the forecast use them."""

from collections.abc import Iterator

from ropewalk.core.error import UserError
from ropewalk.recipe.spec import Recipe
from ropewalk.recipe.stage import Stage
from ropewalk.rope.longrope_search import seed_factors
from ropewalk.rope.scaling import LongRope, Rope, Unchanged
from ropewalk.shape.change_layers import change_layers, describe_change
from ropewalk.shape.model_shape import ModelShape


def keeps_positions(stage: Stage) -> bool:
    """Whether a stage trains on with the positions of the model before it."""
    rules = (stage.rope, *(rule.rope for rule in stage.layers if rule.rope is not None))
    return stage.pose is None and all(isinstance(rule, Unchanged) for rule in rules)


def model_tokens(stage: Stage, before: ModelShape) -> int:
    """The context of the model that ``stage`` makes of ``before``.

    It is what the stage reaches. A stage that keeps the positions may train on shorter sequences; then the model still
    reads as far as before.
    """
    return max(stage.reach_tokens, before.context_tokens) if keeps_positions(stage) else stage.reach_tokens


def stretch_stage(stage: Stage, shape: ModelShape) -> ModelShape:
    """The shape of a model after ``stage`` has changed its positions.

    LongRoPE factors that are still to be searched are those of YaRN here, because the search starts from them. Raises
    UserError where method, layer pattern and model do not fit together.
    """
    pattern = tuple(
        rule if rule.rope is None else rule.model_copy(update={"rope": _foresee(rule.rope, stage, shape)})
        for rule in stage.layers
    )
    rope, context_tokens = _foresee(stage.rope, stage, shape), model_tokens(stage, shape)
    return change_layers(shape, pattern, rope=rope, context_tokens=context_tokens)


def stretch_stages(recipe: Recipe, shape: ModelShape) -> Iterator[ModelShape]:
    """The shape after each stage; it ends before the first stage that does not fit the shape before it."""
    for stage in recipe.stages:
        try:
            shape = stretch_stage(stage, shape)
        except UserError:  # recipe/check reports this fault with its numbers
            return
        yield shape


def describe_stages(recipe: Recipe, shape: ModelShape) -> Iterator[list[str]]:
    """The changes that each stage makes to the layers of the stage before, and the kept parts, in words."""
    for after in stretch_stages(recipe, shape):
        yield describe_change(shape, after.positions)
        shape = after


def _foresee(method: Rope, stage: Stage, shape: ModelShape) -> Rope:
    if not isinstance(method, LongRope) or method.long_factor is not None:
        return method
    return method.model_copy(update={"long_factor": seed_factors(shape.base_rope, stage.reach_tokens)["yarn"]})
