"""Long-context continued pretraining for Hugging Face models: corpus, positions, context parallelism, proof.

The names here are the public face; each is imported from its room when it is first asked for, so that ``import
ropewalk`` costs nothing and needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ropewalk.attention import attend
    from ropewalk.commands.run import check_recipe, run_recipe
    from ropewalk.core.error import UserError
    from ropewalk.model.extend import extend
    from ropewalk.model.load import load_model
    from ropewalk.model.loss import chunked_cross_entropy
    from ropewalk.model.parallelize import ContextParallel, parallelize
    from ropewalk.partition import local_shard, partition_tokens
    from ropewalk.recipe.load import load_recipe
    from ropewalk.shape.read import read_shape

__all__ = [
    "ContextParallel",
    "UserError",
    "attend",
    "check_recipe",
    "chunked_cross_entropy",
    "extend",
    "load_model",
    "load_recipe",
    "local_shard",
    "parallelize",
    "partition_tokens",
    "read_shape",
    "run_recipe",
]

_ROOMS = {
    "ContextParallel": "model.parallelize",
    "UserError": "core.error",
    "attend": "attention",
    "check_recipe": "commands.run",
    "chunked_cross_entropy": "model.loss",
    "local_shard": "partition",
    "extend": "model.extend",
    "load_model": "model.load",
    "load_recipe": "recipe.load",
    "parallelize": "model.parallelize",
    "partition_tokens": "partition",
    "read_shape": "shape.read",
    "run_recipe": "commands.run",
}


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module 'ropewalk' has no attribute {name!r}")
    return getattr(import_module(f"ropewalk.{_ROOMS[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
