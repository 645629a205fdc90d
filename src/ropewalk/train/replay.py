"""Repeat a skipped step from the checkpoint before it, to find out whether the data or the machine was the cause.

All steps up to the skipped one are a function of checkpoint and cursor, so the loss must be the same, bit for bit. If
the loss differs, the text was not the cause. Then each sequence of the step is run alone, which shows the faulty
sequence. Nothing is written, and the step itself changes no weight.
"""

from pathlib import Path
from typing import Any

from ropewalk.checkpoint.load import find_fault_together, list_checkpoints, read_facts, step_of
from ropewalk.core.error import UserError
from ropewalk.core.progress import say
from ropewalk.core.run_folder import RunFolder
from ropewalk.parallel.collective import share_from_first
from ropewalk.parallel.mesh import make_mesh
from ropewalk.recipe.spec import Recipe
from ropewalk.train.batches import StepBatches, make_batches
from ropewalk.train.loop import StageContext, take_step
from ropewalk.train.loss_metrics import LossMetrics
from ropewalk.train.metrics_log import MetricsLog
from ropewalk.train.resume import go_on
from ropewalk.train.schedule import RATES, Rates
from ropewalk.train.spike_guard import UNSEEN
from ropewalk.train.stage import begin_stage, carry_moments, open_rows, sharing_of
from ropewalk.train.step import train_step


def replay(record: dict[str, Any], recipe: Recipe, run: Path, corpus: Path) -> dict[str, Any]:
    """Repeat the step of ``record`` (a file in ``stages/N/skipped/``), as a whole and sequence by sequence.

    Returns loss and gradient norm of the step and of each sequence, the step of the checkpoint, and whether the values
    are the same as in ``record``. Every rank must call it. Raises UserError where no checkpoint before the step is left
    from which it can be reached.
    """
    stage, first, rows = record["stage"], record["first_row"], len(record["rows"])
    spec, parallel = recipe.stages[stage], recipe.parallel
    mesh = make_mesh(parallel.ranks, parallel.context_parallel, replicas=parallel.replicas)
    dataset = open_rows(recipe, stage, corpus=corpus, rows=first + rows)
    fresh = begin_stage(recipe, stage, run=run, mesh=mesh, dataset=dataset)
    start = _find_start(record, RunFolder(run).checkpoints(stage))
    state = carry_moments(fresh, recipe, run) if start is None else go_on(fresh, start)
    sharing = sharing_of(recipe, RunFolder(run).extended(stage), mesh)
    begun, metrics_log = state.step, MetricsLog(RunFolder(run).metrics, writes=False)
    rates = Rates.from_json(state.plan[RATES])
    job = StageContext(
        spec, rates, spec.step_rows, dataset, mesh, parallel, sharing, metrics_log, RunFolder(run).stage(stage).root
    )
    loss_metrics = LossMetrics(dataset.sources, spec.reach_tokens)

    def take(cursor: int, rows: int) -> StepBatches:
        return make_batches(dataset, cursor, rows=rows, spec=spec, mesh=mesh, sharing=sharing)

    def look(batches: StepBatches) -> dict[str, float | None]:
        seen, _ = train_step(
            state, batches, mesh=mesh, loss_metrics=loss_metrics, rate=0.0, clip=spec.max_grad_norm, judge=_refuse
        )
        if seen.recent[-1] == UNSEEN:  # a sequence without a label has neither loss nor gradient
            return {"loss": 0.0, "grad_norm": 0.0}
        loss, norm, _ = seen.recent[-1]
        return {"loss": loss, "grad_norm": norm}

    while state.step < record["step"] - 1:
        state, _, _ = take_step(state, take(state.cursor, spec.step_rows), job, loss_metrics)
    if mesh.rank == 0:
        say(f"trained from step {begun} to {state.step}; now step {record['step']}")
    whole = look(take(first, rows))
    same = whole == {name: record[name] for name in whole}
    return {**whole, "from_step": begun, "same": same, "rows": [look(take(first + row, 1)) for row in range(rows)]}


def _refuse(loss: float, norm: float) -> str:
    return "it is only looked at"


def _find_start(record: dict[str, Any], checkpoints: Path) -> Path | None:
    """Return the newest intact checkpoint from which the step can be reached; None for the beginning of the stage."""
    for path in share_from_first(list_checkpoints(checkpoints)):
        if step_of(path) < record["step"] and find_fault_together(path) is None:
            if read_facts(path)["rollbacks"] == record["rollbacks"]:
                return path
            break  # older checkpoints are from before the rollback too
    if not record["rollbacks"]:
        return None
    raise UserError(
        "the way to this step is gone",
        where=str(checkpoints),
        why=f"no checkpoint after rollback {record['rollbacks']} and before step {record['step']} is left",
        fix="keep more checkpoints (stages.N.save_total_limit), or look at the text in the file itself",
    )
