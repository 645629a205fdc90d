"""``ropewalk replay``: repeats a step that the guard skipped, as a whole and sequence by sequence."""

import json
from pathlib import Path
from typing import Any

from ropewalk.commands.on_ranks import on_ranks
from ropewalk.commands.run_inputs import rank_setup
from ropewalk.core.error import UserError
from ropewalk.core.run_folder import RunFolder
from ropewalk.recipe.load import load_recipe
from ropewalk.recipe.spec import Recipe


def replay_skipped(path: Path) -> dict[str, Any]:
    """Repeat a skipped step, as a whole and sequence by sequence.

    ``path`` is its file, a run's stages/N/skipped/*.json.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        recipe_path = RunFolder(path.resolve().parents[3]).recipe
        names, stage = [sequence["source"] for sequence in record["sequences"]], record["stage"]
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise UserError(
            "this is not a record of a skipped step",
            where=str(path),
            why=str(error),
            fix="give a file of RUN/stages/N/skipped/, in its run folder",
        ) from None
    recipe, folder = load_recipe(recipe_path), RunFolder(recipe_path.parent)
    setup = rank_setup(recipe, folder.extended(stage))
    found = on_ranks(replay_on_ranks, recipe.parallel.ranks, record, recipe, folder, setup=setup)
    return {**found, "reason": record["reason"], "text": _describe(record, found, names)}


def replay_on_ranks(record: dict[str, Any], recipe: Recipe, folder: RunFolder) -> dict[str, Any]:
    """Repeat a skipped step."""
    from ropewalk.train.replay import replay

    return replay(record, recipe, folder.root, folder.corpus)


def _describe(record: dict[str, Any], found: dict[str, Any], names: list[str]) -> str:
    verdict = "the same result again: data and weights are the cause"
    if not found["same"]:
        verdict = f"another result (then {_show(record)}): data and weights are not the cause"
    lines = [f"step {record['step']} was skipped: {record['reason']}", f"replayed: {_show(found)}, {verdict}", ""]
    lines += [
        f"sequence {sequence['sequence']}: {_show(alone)}  {name}"
        for sequence, alone, name in zip(record["sequences"], found["sequences"], names, strict=True)
    ]
    return "\n".join(lines)


def _show(figures: dict[str, Any]) -> str:
    loss, norm = ("not finite" if figures[name] is None else f"{figures[name]:.4f}" for name in ("loss", "grad_norm"))
    return f"loss {loss}, gradient norm {norm}"
