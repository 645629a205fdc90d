"""The JSON of a recipe with the rope keys that are given with their default (rope/given_defaults.py)."""

from collections.abc import Iterable, Mapping
from typing import Any

from ropewalk.recipe.stage import Stage
from ropewalk.rope.given_defaults import dump_marked


def mark_ropes(data: Mapping[str, Any], stages: Iterable[Stage]) -> dict[str, Any]:
    """``data``, the JSON of a recipe with these ``stages``, with each rope as ``dump_marked`` gives it."""
    marked = []
    for stage, keys in zip(stages, data["stages"], strict=True):
        lines = [
            line | {"rope": None if own.rope is None else dump_marked(own.rope)}
            for own, line in zip(stage.layers, keys["layers"], strict=True)
        ]
        marked.append({**keys, "rope": dump_marked(stage.rope), "layers": lines})
    return {**data, "stages": marked}
