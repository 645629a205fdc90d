"""What a stage knows of its own saves, in a file beside its checkpoints: how far one was begun, and how far finished.

Checkpoints that were removed, or are damaged, leave no other trace; without one a stage would begin again at step 0 as
if it had been killed before its first save.
"""

import json
from pathlib import Path

from ropewalk.core.artifact import write_whole
from ropewalk.core.read_json import read_written

SAVES = "saves.json"


def note_begun(checkpoints: Path, step: int) -> None:
    """Write down that a save of ``step`` begins. One process calls it, before any of the save's files is there."""
    checkpoints.mkdir(parents=True, exist_ok=True)
    _, saved = read_saves(checkpoints)
    _write(checkpoints, begun=step, saved=saved)


def note_saved(checkpoints: Path, step: int) -> None:
    """Write down that the checkpoint of ``step`` stands."""
    _write(checkpoints, begun=step, saved=step)


def read_saves(checkpoints: Path) -> tuple[int | None, int | None]:
    """The last step whose save was begun, and the last one whose checkpoint stood; None for neither."""
    path = checkpoints.parent / SAVES
    if not path.exists():
        return None, None
    fix = "remove it if checkpoints/ beside it still has the stage's checkpoints"
    return read_written(path, lambda noted: (noted["begun"], noted["saved"]), fix=fix)


def _write(checkpoints: Path, *, begun: int, saved: int | None) -> None:
    write_whole(checkpoints.parent / SAVES, json.dumps({"begun": begun, "saved": saved}))
