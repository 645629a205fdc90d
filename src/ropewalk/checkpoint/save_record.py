"""A record of a stage's saves, in a file beside its checkpoints: the last save that began and the last that finished.

Checkpoints that were removed or damaged leave no other trace. Without this record, such a stage would begin again at
step 0, as if it had been killed before its first save.
"""

from pathlib import Path

from ropewalk.core.artifact import write_whole
from ropewalk.core.read_json import read_written
from ropewalk.core.run_folder import StageFolder
from ropewalk.core.strict_json import spell_json


def note_begun(checkpoints: Path, step: int) -> None:
    """Record that a save of ``step`` begins. One process calls it before the first file of the save exists."""
    checkpoints.mkdir(parents=True, exist_ok=True)
    _, saved = read_saves(checkpoints)
    _write(checkpoints, begun=step, saved=saved)


def note_saved(checkpoints: Path, step: int) -> None:
    """Record that the checkpoint of ``step`` is complete."""
    _write(checkpoints, begun=step, saved=step)


def read_saves(checkpoints: Path) -> tuple[int | None, int | None]:
    """Return the last step of which a save began, and the last one of which the checkpoint was complete.

    Each of the two is None if there is no such step.
    """
    path = StageFolder(checkpoints.parent).saves
    if not path.exists():
        return None, None
    fix = "remove it if the folder checkpoints/ next to it still has the checkpoints of the stage"
    return read_written(path, lambda noted: (noted["begun"], noted["saved"]), fix=fix)


def _write(checkpoints: Path, *, begun: int, saved: int | None) -> None:
    write_whole(StageFolder(checkpoints.parent).saves, spell_json({"begun": begun, "saved": saved}))
