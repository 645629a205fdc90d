"""The training loop: take a step, write its metrics, average them, save; until the stage ends or is asked to stop."""

import dataclasses
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from ropewalk.checkpoint.saver import Saver
from ropewalk.checkpoint.state import TrainState
from ropewalk.core.progress import say
from ropewalk.core.record import Metric
from ropewalk.core.run_folder import StageFolder
from ropewalk.corpus.mix.dataset import Dataset
from ropewalk.model.rope_hooks import anneal_positions
from ropewalk.parallel.hang import watch_for_hang
from ropewalk.parallel.mesh import Mesh
from ropewalk.parallel.slow import watch_own_time
from ropewalk.partition.choose import Sharing
from ropewalk.recipe.spec import Parallel
from ropewalk.recipe.stage import Stage
from ropewalk.train.batches import StepBatches, make_batches
from ropewalk.train.loss_metrics import LossMetrics
from ropewalk.train.metrics_log import MetricsLog
from ropewalk.train.progress import Teller, tell_mix
from ropewalk.train.rank_status import gather_rank_status
from ropewalk.train.schedule import Rates, annealing_share
from ropewalk.train.skipped import write_skipped
from ropewalk.train.spike_guard import is_astray, judge_step
from ropewalk.train.step import UNLABELLED, train_step
from ropewalk.train.stop_metric import Measure
from ropewalk.train.throughput import Throughput
from ropewalk.train.trackers import Trackers
from ropewalk.train.validation import HeldOut


@dataclass(frozen=True)
class StageContext:
    """The settings of one stage. They are the same from the first step to the last."""

    spec: Stage
    rates: Rates
    rows: int
    dataset: Dataset
    mesh: Mesh
    parallel: Parallel
    sharing: Sharing
    metrics_log: MetricsLog
    folder: Path
    """The stage's folder: the model that it starts from, its checkpoints, its skipped steps."""
    measure: Measure | None = None
    """Measures ``retrieval``, where ``stop`` needs it."""
    validation: HeldOut | None = None
    """The validation on held-out text, at regular steps."""
    kinds: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """The groups of each source (train/loss_metrics.py)."""

    @property
    def steps(self) -> int:
        """The largest number of steps of the stage."""
        return self.rates.steps


def run_loop(
    state: TrainState, job: StageContext, asked: Callable[[], bool], *, throughput: Throughput, trackers: Trackers
) -> TrainState:
    """Train from ``state`` on; return the state at the end.

    The loop ends where the stage ends, where ``asked()`` is true, or where too many steps were skipped. In the first
    two cases the returned state has been saved. In the last case it has not.
    """
    loss_metrics = LossMetrics(job.dataset.sources, job.spec.reach_tokens, job.kinds)
    teller = Teller(throughput, steps=job.steps)
    with (
        closing(_look_ahead(job, state.cursor)) as stream,
        teller.show(f"stage {state.stage}", taken=state.step) as show,
        Saver(
            StageFolder(job.folder).checkpoints, keep=job.spec.save_total_limit, spared_step=job.rates.plateau_steps
        ) as saver,
        watch_for_hang(job.parallel.hang_seconds) as clock,
        watch_own_time() as own,
    ):
        for batches in stream:
            before = state.tokens
            state, rows, fault = take_step(state, batches, job, loss_metrics)
            clock.tick()
            heard = gather_rank_status(job.mesh, asked=asked(), save_failed=saver.has_failed, own_seconds=own.take())
            rows += teller.tell(state, batches, heard, tokens=state.tokens - before, rows=rows)
            if job.mesh.rank == 0:
                _tell_skipped(state, job, rows, fault=fault)
            if state.step % job.spec.log_steps == 0 or state.step == job.steps:
                with clock.at_leisure():
                    state, averages = _average_metrics(state, job, loss_metrics)
                rows += averages
            if job.validation is not None and (state.ended or state.step % job.validation.steps == 0):
                with clock.at_leisure():
                    rows += job.validation.ask(state)
            job.metrics_log.append(rows)
            trackers.log(rows)
            show(rows)
            if is_astray(state.recent, guard=job.spec.guard):
                saver.finish()
                break
            ending = bool(state.ended) or heard.asked
            with clock.at_leisure():
                if heard.save_failed:
                    saver.finish()
                if ending or state.step % job.spec.checkpoint_steps == 0 or state.step == job.rates.plateau_steps:
                    job.metrics_log.flush()
                    saver.begin(state)
                if ending:
                    saver.finish()
            if ending:
                break
            own.take()
            teller.end_between()
    return state


def take_step(
    state: TrainState, batches: StepBatches, job: StageContext, loss_metrics: LossMetrics
) -> tuple[TrainState, list[Metric], str]:
    """Take one step with its learning rate and its RoPE interpolation.

    Returns the new state, the step's metrics, and the guard's reason to refuse the step (empty if it was not refused).
    """
    before, reasons, guard = state, [""], job.spec.guard

    def judge(loss: float, norm: float) -> str:
        reasons.append(judge_step(before.recent, loss, norm, guard=guard))
        return reasons[-1]

    rate = job.rates.at(state.step)
    anneal_positions(state.model, annealing_share(state.step, steps=job.spec.rope_interpolation_steps))
    state, rows = train_step(
        state, batches, mesh=job.mesh, loss_metrics=loss_metrics, rate=rate, clip=job.spec.max_grad_norm, judge=judge
    )
    return dataclasses.replace(state, recent=state.recent[-guard.window :]), rows, reasons[-1]


def _tell_skipped(state: TrainState, job: StageContext, rows: Sequence[Metric], *, fault: str) -> None:
    """Print why the last step was skipped. A step that the guard refused is also written to a file for ``replay``."""
    if fault:
        written = write_skipped(state, job.folder, dataset=job.dataset, rows=job.rows, reason=fault)
        say(f"WARNING: step {state.step} was skipped: {fault}; its rows are in {written}")
    elif any(row.name == UNLABELLED for row in rows):
        say(f"WARNING: step {state.step} was skipped: none of its rows has a label that counts")


def _look_ahead(job: StageContext, cursor: int) -> Generator[StepBatches, None, None]:
    """Yield the batches of each step. A thread reads and divides them while the previous step is computed."""

    def submit() -> Future[StepBatches]:
        return ahead.submit(
            make_batches,
            job.dataset,
            cursor,
            rows=job.rows,
            spec=job.spec,
            mesh=job.mesh,
            sharing=job.sharing,
        )

    with ThreadPoolExecutor(1) as ahead:
        upcoming = submit()
        while True:
            batches = upcoming.result()
            cursor += job.rows
            if cursor + job.rows <= job.dataset.rows:
                upcoming = submit()
            yield batches


def _average_metrics(
    state: TrainState, job: StageContext, loss_metrics: LossMetrics
) -> tuple[TrainState, list[Metric]]:
    """Return the averaged metrics since the last call, and the state with its sums reset.

    ``ended`` of the state is set where the stage ends here.
    """
    rows = list(loss_metrics.averages(state.sums, stage=state.stage, step=state.step)) if state.sums else []
    rows += tell_mix(state, job.dataset)
    if state.rollbacks:
        rows.append(Metric(state.stage, state.step, "rollbacks", state.rollbacks, "1"))
    ended = "limit" if state.step == job.steps else ""
    stop = job.spec.stop
    if stop is not None:
        value = {row.name: row.value for row in rows}.get(stop.metric)
        if job.measure is not None:
            value = job.measure(state)
            rows.append(Metric(state.stage, state.step, stop.metric, value, "share"))
        falling = stop.metric.startswith("loss")
        settled = (
            state.step >= job.spec.rope_interpolation_steps
        )  # before, the positions are not those of the final model
        solved = settled and value is not None and (value <= stop.value if falling else value >= stop.value)
        ended = "solved" if solved else ended
        if ended:
            rows.append(Metric(state.stage, state.step, "stage/solved", float(solved), "1"))
    return dataclasses.replace(state, sums=(), ended=ended), rows
