"""Bytes that a run writes to its folder: checkpoints, models of the stages, and the export."""

from ropewalk.plan.memory import MASTER_BYTES, MOMENT_BYTES
from ropewalk.plan.trained import count_trained
from ropewalk.recipe.spec import Recipe
from ropewalk.recipe.stretch import stretch_stages
from ropewalk.shape.model_shape import ModelShape

_MODEL_BYTES = 2.0
"""Of a weight in the extended model and the export, which have the base's dtype; few bases have another one."""


def count_run_bytes(recipe: Recipe, shape: ModelShape) -> float:
    """An upper bound of the bytes in the run folder of ``recipe``; ``shape`` is the base's. The corpus is not counted.

    While a checkpoint is written, the ones that ``save_total_limit`` keeps are still there.
    """
    total = _MODEL_BYTES * shape.parameters
    for stage, extended in zip(recipe.stages, stretch_stages(recipe, shape), strict=False):
        trained = count_trained(extended, stage.lora).parameters
        total += (stage.save_total_limit + 1) * (MASTER_BYTES + MOMENT_BYTES) * trained
        total += (_MODEL_BYTES + MASTER_BYTES) * extended.parameters
    return total


def count_store_bytes(tokens: float, vocabulary: int) -> float:
    """Bytes of that many tokens in the token store (corpus/tokens/store.py)."""
    return tokens * (2 if vocabulary <= 1 << 16 else 4)
