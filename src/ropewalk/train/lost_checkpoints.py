"""A stage without a checkpoint: decide whether it was killed before its first save, or has lost its checkpoints.

In the first case it begins at step 0 and prints this. In the second case it must not begin again, since hours of
training would be repeated without a warning.
"""

from ropewalk.checkpoint.load import list_checkpoints
from ropewalk.checkpoint.save_record import read_saves
from ropewalk.core.error import UserError
from ropewalk.core.progress import say
from ropewalk.core.quantity import format_count
from ropewalk.parallel.collective import share_from_first
from ropewalk.train.metrics_log import MetricsLog
from ropewalk.train.sessions import read_sessions
from ropewalk.train.stage_context import StageContext


def refuse_lost_steps(context: StageContext) -> None:
    """Raise UserError, on every rank, where the stage had a checkpoint and no intact one is left.

    It is called where no checkpoint was found. The stage had one if its record of saves names one, or if its metrics go
    beyond the first save.
    """
    stage, checkpoints = context.number, context.folder.checkpoints
    why, known = share_from_first(_find_loss(context) if context.is_first_rank else ("", 0))
    if why:
        raise UserError(
            f"the checkpoints of stage {stage} are missing",
            where=str(checkpoints),
            why=why,
            fix=f"put a checkpoint back; to begin the stage at step 0 on purpose, remove {checkpoints.parent} and the "
            f'stage\'s lines of metrics.jsonl (those with "stage": {stage}), or give the run another folder',
        )
    if known and context.is_first_rank:
        say(
            f"stage {stage} starts again at step 0: it was stopped at step {known}, before its first checkpoint was "
            "complete"
        )


def _find_loss(context: StageContext) -> tuple[str, int]:
    """Return why a checkpoint must have been lost (empty if none was), and the last step that has metrics."""
    known = MetricsLog(context.metrics, writes=False).last_step(context.number)
    begun, saved = read_saves(context.folder.checkpoints)
    damaged = list_checkpoints(context.folder.checkpoints)
    if saved is not None:
        return (
            f"a checkpoint of step {saved} was written and metrics.jsonl has {format_count(known, 'step')}, but no "
            "checkpoint there can be verified",
            known,
        )
    if damaged:
        return (
            f"metrics.jsonl has {format_count(known, 'step')}, but none of the "
            f"{format_count(len(damaged), 'checkpoint')} can be verified",
            known,
        )
    if begun is None and known > _first_save(context):
        return (
            f"metrics.jsonl has {format_count(known, 'step')}, more than before the first save, but there is no "
            "checkpoint",
            known,
        )
    return "", known


def _first_save(context: StageContext) -> int:
    """The latest step at which the first save was due: ``checkpoint_steps`` may differ from session to session."""
    own = [each["means"] for each in read_sessions(context.metrics.parent) if each["stage"] == context.number]
    return max([context.spec.checkpoint_steps, *(int(means["checkpoint_steps"]) for means in own)])
