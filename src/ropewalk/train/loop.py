"""The training loop: take a step, write its metrics, average them, save; until the stage ends or is asked to stop."""

import dataclasses
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass

from ropewalk.checkpoint.saver import Saver
from ropewalk.checkpoint.state import TrainState
from ropewalk.core.progress import warn
from ropewalk.core.record import Metric
from ropewalk.corpus.mix.dataset import Dataset
from ropewalk.model.rope_hooks import interpolate_positions
from ropewalk.parallel.device import use_device
from ropewalk.parallel.hang import watch_for_hang
from ropewalk.parallel.slow import watch_own_time
from ropewalk.recipe.stage import Stage
from ropewalk.train.batches import StepBatches, make_batches
from ropewalk.train.expert_step import layer_metrics
from ropewalk.train.learning_rate import RATES, Rates, interpolation_share
from ropewalk.train.loss_metrics import LossMetrics
from ropewalk.train.metrics_log import MetricsLog
from ropewalk.train.mix_guard import MixGuard
from ropewalk.train.progress import StageProgress, tell_mix
from ropewalk.train.rank_status import gather_rank_status
from ropewalk.train.skipped import write_skipped
from ropewalk.train.spike_guard import is_astray
from ropewalk.train.stage_context import StageContext
from ropewalk.train.step import UNLABELLED, StepResult, train_step
from ropewalk.train.stop_metric import Measure
from ropewalk.train.throughput import Throughput
from ropewalk.train.trackers import Trackers
from ropewalk.train.validation import HeldOut


@dataclass(frozen=True)
class Monitor:
    """What is measured while a stage trains, and where the metrics go."""

    metrics_log: MetricsLog
    throughput: Throughput
    groups: Mapping[str, Sequence[str]]
    """The groups of each source (train/loss_metrics.py)."""
    validation: HeldOut | None = None
    """Measurements on held-out text, at regular steps."""
    retrieval: Measure | None = None
    """Measures ``retrieval``, where ``stop`` needs it."""
    guard: MixGuard | None = None
    """Compares losses on held-out text with a study of the mix."""


def run_loop(
    state: TrainState,
    context: StageContext,
    dataset: Dataset,
    monitor: Monitor,
    asked: Callable[[], bool],
    *,
    trackers: Trackers,
) -> TrainState:
    """Train from ``state`` on; return the state at the end.

    The loop ends where the stage ends, where ``asked()`` is true, or where too many steps were skipped. In the first
    two cases the returned state has been saved. In the last case it has not.
    """
    spec, mesh, rates = context.spec, context.mesh, Rates.from_json(state.plan[RATES])
    loss_metrics = LossMetrics(dataset.sources, spec.reach_tokens, monitor.groups)
    progress = StageProgress(monitor.throughput, context, steps=rates.steps)
    with (
        closing(_look_ahead(context, dataset, state.cursor)) as stream,
        progress.show(f"stage {state.stage}", taken=state.step) as show,
        Saver(context.folder.checkpoints, keep=spec.save_total_limit, spared_step=rates.plateau_steps) as saver,
        watch_for_hang(context.parallel.hang_seconds) as clock,
        watch_own_time() as own,
    ):
        for batches in stream:
            before = state.tokens
            result = take_step(state, batches, context, rates, loss_metrics)
            state, metrics = result.state, result.metrics
            clock.tick()
            status = gather_rank_status(mesh, own, progress.meter, asked=asked(), save_failed=saver.has_failed)
            metrics += progress.tell(state, batches, status, tokens=state.tokens - before, metrics=metrics)
            if context.is_first_rank and result.reason:
                _tell_skipped(result, context, dataset)
            if state.step % spec.log_steps == 0 or state.step == rates.steps:
                with clock.at_leisure():
                    state, averages = _average_metrics(state, context, dataset, rates, monitor, loss_metrics)
                metrics += averages
            with clock.at_leisure():
                state, measured = _validate(state, spec, monitor.validation, monitor.guard)
            metrics += measured
            monitor.metrics_log.append(metrics)
            trackers.log(metrics)
            show(metrics)
            astray = is_astray(state.recent, guard=spec.guard)
            ending = astray or bool(state.ended) or status.asked
            due = ending or state.step % spec.checkpoint_steps == 0 or state.step == rates.plateau_steps
            with clock.at_leisure():
                if status.save_failed:
                    saver.finish()
                if due and not astray:
                    monitor.metrics_log.flush()
                    saver.begin(state)
                if ending:
                    saver.finish()
            if ending:
                break
            own.take()
            progress.end_between()
    return state


def take_step(
    state: TrainState, batches: StepBatches, context: StageContext, rates: Rates, loss_metrics: LossMetrics
) -> StepResult:
    """Take one step with its learning rate and its RoPE interpolation."""
    spec = context.spec
    place_positions(state, spec)
    return train_step(
        state,
        batches,
        mesh=context.mesh,
        loss_metrics=loss_metrics,
        rate=rates.at(state.step),
        max_grad_norm=spec.max_grad_norm,
        guard=spec.guard,
        frozen=trains_new_only(spec, state.step),
    )


def place_positions(state: TrainState, spec: Stage) -> None:
    """Give the model the positions of the step that follows ``state.step``, on their way to those of the stage."""
    interpolate_positions(state.model, interpolation_share(state.step, steps=spec.rope_interpolation_steps))


def trains_new_only(spec: Stage, step: int) -> bool:
    """Whether the step that follows ``step`` trains only the layers to which the stage gave another mixer."""
    return spec.experimental is not None and step < spec.experimental.frozen_steps


def _tell_skipped(result: StepResult, context: StageContext, dataset: Dataset) -> None:
    """Print why the last step was skipped. A step that the guard refused is also written to a file for ``replay``."""
    where = ""
    if result.reason != UNLABELLED:
        sequences = context.spec.step_sequences
        path = write_skipped(result.state, context.folder, dataset=dataset, sequences=sequences, reason=result.reason)
        where = f"; its sequences are in {path}"
    warn(f"WARNING: step {result.state.step} was skipped: {result.reason}{where}")


def _look_ahead(context: StageContext, dataset: Dataset, cursor: int) -> Generator[StepBatches, None, None]:
    """Yield the batches of each step. A thread reads and divides them while the previous step is computed."""
    sequences = context.spec.step_sequences

    def submit() -> Future[StepBatches]:
        return ahead.submit(
            make_batches,
            dataset,
            cursor,
            sequences=sequences,
            spec=context.spec,
            mesh=context.mesh,
            sharing=context.sharing,
        )

    with ThreadPoolExecutor(1, initializer=use_device, initargs=(context.mesh.device,)) as ahead:
        upcoming = submit()
        while True:
            batches = upcoming.result()
            cursor += sequences
            if cursor + sequences <= dataset.sequences:
                upcoming = submit()
            yield batches


def _average_metrics(
    state: TrainState,
    context: StageContext,
    dataset: Dataset,
    rates: Rates,
    monitor: Monitor,
    loss_metrics: LossMetrics,
) -> tuple[TrainState, list[Metric]]:
    """Return the averaged metrics since the last call, and the state with its sums reset.

    ``ended`` of the state is set where the stage ends here.
    """
    metrics = list(loss_metrics.averages(state.sums, stage=state.stage, step=state.step)) if state.sums else []
    metrics += tell_mix(state, dataset)
    metrics += layer_metrics(state.model, stage=state.stage, step=state.step)
    if state.rollbacks:
        metrics.append(Metric(state.stage, state.step, "rollbacks", state.rollbacks, "1"))
    ended = "limit" if state.step == rates.steps else ""
    stop = context.spec.stop
    if stop is not None and stop.value is not None:
        value = {metric.name: metric.value for metric in metrics}.get(stop.metric)
        if monitor.retrieval is not None:
            value = monitor.retrieval(state)
            metrics.append(Metric(state.stage, state.step, stop.metric, value, "share"))
        falling = stop.metric.startswith("loss")
        # Before the last step of the interpolation, the positions are not those of the final model.
        settled = state.step >= context.spec.rope_interpolation_steps
        solved = settled and value is not None and (value <= stop.value if falling else value >= stop.value)
        ended = "solved" if solved else ended
        if ended:
            metrics.append(Metric(state.stage, state.step, "stage/solved", float(solved), "1"))
    return dataclasses.replace(state, sums=(), ended=ended), metrics


def _validate(
    state: TrainState, spec: Stage, validation: HeldOut | None, guard: MixGuard | None
) -> tuple[TrainState, list[Metric]]:
    """The measurements, if due; and the state, which ends where they show that ``stop``'s metric is saturated."""
    if validation is None or not (state.ended or state.step % validation.steps == 0):
        return state, []
    metrics = validation.ask(state)
    for line in guard.judge(metrics) if guard is not None else ():
        warn(line)
    if spec.stop is None or spec.stop.saturated is None:
        return state, metrics
    # Before the last step of the interpolation, the positions are not those of the final model.
    solved = validation.is_saturated(state, spec.stop, from_step=spec.rope_interpolation_steps)
    if solved:
        state = dataclasses.replace(state, ended="solved")
    if state.ended:
        metrics.append(Metric(state.stage, state.step, "stage/solved", float(solved), "1"))
    return state, metrics
