"""A recipe as it is written into a file, from which the same recipe is read again."""

from typing import Any

from ropewalk.recipe.spec import Recipe
from ropewalk.rope.scaling import Rope


def list_file_keys(recipe: Recipe) -> dict[str, Any]:
    """``recipe.to_json()`` with only the given keys of each rope.

    On a base that is scaled already, a method takes the keys that were not given from the base, and those that were
    given with their default from the recipe (rope/method.py).
    """
    data = recipe.to_json()
    for stage, keys in zip(recipe.stages, data["stages"], strict=True):
        keys["rope"] = _list_given(stage.rope)
        for line, own in zip(stage.layers, keys["layers"], strict=True):
            own["rope"] = None if line.rope is None else _list_given(line.rope)
    return data


def _list_given(rope: Rope) -> dict[str, Any]:
    return {"kind": rope.kind, **rope.model_dump(mode="json", exclude_unset=True)}
