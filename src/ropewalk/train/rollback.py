"""Rollback: return to the last checkpoint before a series of skipped steps, and continue after their data.

The step goes back, but the cursor does not. So the skipped sequences, and those between them, are not read again. The
decision is on disk before any checkpoint is removed. If the run is killed in between, the next resume completes the
rollback.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ropewalk.checkpoint.load import find_fault_together, list_checkpoints, read_facts, step_of
from ropewalk.checkpoint.state import TrainState
from ropewalk.core.artifact import discard, write_whole
from ropewalk.core.error import UserError
from ropewalk.core.progress import warn
from ropewalk.core.quantity import format_count
from ropewalk.core.read_json import read_written
from ropewalk.core.run_folder import StageFolder
from ropewalk.core.strict_json import spell_json
from ropewalk.parallel.collective import rank_and_ranks, share_from_first, wait_for_ranks
from ropewalk.recipe.gates import Guard


def decide_rollback(state: TrainState, folder: StageFolder, *, guard: Guard) -> None:
    """Record that the stage in ``folder`` goes back from ``state``. Every rank must call it, and then resume as usual.

    Raises UserError where no further rollback is allowed, or where no checkpoint is older than the first skipped step.
    """
    recent = state.recent[-guard.window :]
    first_bad = state.step - len(recent) + 1 + next(i for i, (_, _, taken) in enumerate(recent) if not taken)
    older = [path for path in share_from_first(list_checkpoints(folder.checkpoints)) if step_of(path) < first_bad]
    target = next((path for path in older if find_fault_together(path) is None), None)
    skipped = sum(not taken for _, _, taken in recent)
    if target is None or state.rollbacks >= guard.rollbacks:
        tried = (
            f"{format_count(state.rollbacks, 'rollback')} did not help"
            if target
            else "no checkpoint is older than the first skipped step"
        )
        raise UserError(
            "training is unstable",
            where=f"stages.{state.stage}",
            why=f"the spike guard skipped {skipped} of the last {len(recent)} steps, and {tried}",
            fix="look at stages/N/skipped/ (ropewalk replay FILE), lower lr or max_grad_norm, lengthen schedule.warmup",
        )
    entry = {"from_step": state.step, "to_step": step_of(target), "cursor": state.cursor, "skipped": skipped}
    if rank_and_ranks()[0] == 0:
        write_whole(folder.rollbacks, spell_json([*read_history(folder), entry], indent=1))
        warn(
            f"WARNING: {skipped} of the last {len(recent)} steps were skipped; rolling back from step {state.step} "
            f"to {target.name}"
        )
    wait_for_ranks()


def read_history(folder: StageFolder) -> list[dict[str, Any]]:
    """Return all rollbacks of this stage, oldest first."""
    path = folder.rollbacks
    fix = "correct it by the rollbacks in metrics.jsonl, or give the run another folder"
    if not path.exists():
        return []
    return read_written(
        path, lambda entries: [{**entry, "to_step": int(entry["to_step"])} for entry in entries], fix=fix
    )


def remove_astray(folder: StageFolder) -> None:
    """Remove the checkpoints that a rollback has made invalid: those after the step to which the stage went back.

    Every rank must call it before it looks for the newest checkpoint.
    """
    history = share_from_first(read_history(folder))
    if history and rank_and_ranks()[0] == 0:
        for path in list_checkpoints(folder.checkpoints):
            if _is_astray(path, history):
                discard(path)
    wait_for_ranks()


def go_past(state: TrainState, folder: StageFolder) -> TrainState:
    """Return a state that was just loaded, with its cursor after the data of the last rollback.

    If the state already includes all rollbacks, it is returned unchanged. Raises UserError, on every rank, where it
    includes rollbacks that are not recorded.
    """
    history = share_from_first(read_history(folder))
    if state.rollbacks > len(history):
        raise UserError(
            "the record of the rollbacks is incomplete",
            where=str(folder.rollbacks),
            why=f"the checkpoint was made after {format_count(state.rollbacks, 'rollback')}, and the file has "
            f"{len(history)}",
            fix="put the file of that time back, or give the run another folder",
        )
    if state.rollbacks == len(history):
        return state
    return dataclasses.replace(state, cursor=history[-1]["cursor"], rollbacks=len(history))


def _is_astray(path: Path, history: Sequence[dict[str, Any]]) -> bool:
    try:
        lived_through = int(read_facts(path)["rollbacks"])
    except (OSError, ValueError, KeyError):  # a damaged checkpoint: the search for the newest one ignores it
        return False
    return any(step_of(path) > entry["to_step"] for entry in history[lived_through:])
