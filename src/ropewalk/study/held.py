"""Whether a run folder holds this recipe's run, and if not, in which keys they differ."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from ropewalk.core.error import UserError
from ropewalk.recipe.load import load_recipe
from ropewalk.recipe.spec import Recipe
from ropewalk.study.folder import RunFolder

_SHOWN_CHANGES, _SHOWN_LETTERS = 4, 60


def require_same_recipe(recipe: Recipe, folder: RunFolder, *, but: Sequence[str] = ()) -> None:
    """Raise UserError where the folder's recipe is another one, in other keys than ``but``."""
    held = load_recipe(folder.recipe)
    if held.digest == recipe.digest:
        return
    ours, theirs = recipe.to_json(), held.to_json()
    changed = [
        line
        for key in ours
        if key not in ("run", "trackers", "strict", *but)
        for line in _differ(ours[key], theirs[key], key)
    ]
    if not changed:
        return
    more = [f"{len(changed) - _SHOWN_CHANGES} more"] if len(changed) > _SHOWN_CHANGES else []
    raise UserError(
        "the run folder holds another recipe's run",
        where=str(folder.root),
        why=f"they differ in {', '.join([*changed[:_SHOWN_CHANGES], *more])}",
        fix="give this run another folder (run=...), or remove the old one",
    )


def _differ(ours: Any, theirs: Any, path: str) -> Iterator[str]:
    """Every key below ``path`` that two recipes have not alike, with its value in the folder and now."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key in dict.fromkeys([*theirs, *ours]):
            yield from _differ(ours.get(key), theirs.get(key), f"{path}.{key}")
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for place, (own, other) in enumerate(zip(ours, theirs, strict=True)):
            yield from _differ(own, other, f"{path}.{place}")
    elif ours != theirs:
        held, given = json.dumps(theirs, ensure_ascii=False), json.dumps(ours, ensure_ascii=False)
        yield f"{path} ({held} there, {given} here)" if len(held) + len(given) < _SHOWN_LETTERS else path
