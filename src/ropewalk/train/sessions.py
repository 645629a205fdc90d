"""Record in ``sessions.json`` by which means each part of a run was computed (ranks, precision, versions).

The means may change during a run. A session begins when the ranks start a stage, or resume it. It ends where the next
session of the same stage begins.
"""

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ropewalk.core.artifact import write_whole
from ropewalk.core.read_json import read_written
from ropewalk.core.run_folder import RunFolder
from ropewalk.core.strict_json import spell_json
from ropewalk.core.versions import find_versions
from ropewalk.plan.receipt import Rig
from ropewalk.recipe.key_effects import pick
from ropewalk.recipe.spec import Recipe
from ropewalk.train.stage_context import StageContext

_PACKAGES = ("ropewalk", "torch")


def note_session(recipe: Recipe, run: Path, context: StageContext, *, step: int, rig: Rig) -> None:
    """Record that the stage of ``context`` continues from ``step`` with the means of ``recipe``. One rank calls it.

    ``context`` has what the recipe's settings give on this device, ``rig`` is what computes.
    """
    data, stage = recipe.to_json(), context.number
    entry = {
        "stage": stage,
        "from_step": step,
        "began": datetime.now(UTC).isoformat(timespec="seconds"),
        "recipe": recipe.digest,
        "parallel": {**pick(data["parallel"], "parallel", "means"), "precision": context.precision},
        "means": pick(data["stages"][stage], "stages", "means"),
        "versions": find_versions(_PACKAGES),
        "rig": asdict(rig),
        "savings": asdict(context.savings),
        "held_tokens": context.sharing.held_tokens,
    }
    write_whole(RunFolder(run).sessions, spell_json([*read_sessions(run), entry], indent=1) + "\n")


def read_sessions(run: Path) -> list[dict[str, Any]]:
    """Return all sessions of a run, oldest first."""
    path = RunFolder(run).sessions
    found: list[dict[str, Any]] = read_written(path) if path.exists() else []
    return found
