"""The loop: take a step, write its rows, close a panel, save, until the stage ends or someone asks to stop."""

import dataclasses
import time
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import torch

from ropewalk.checkpoint.save import save
from ropewalk.checkpoint.state import TrainState
from ropewalk.core.error import UserError
from ropewalk.core.progress import watch
from ropewalk.core.record import Row
from ropewalk.corpus.feed import Feed
from ropewalk.model.positions import anneal_positions
from ropewalk.parallel.collective import max_over_ranks
from ropewalk.parallel.mesh import Mesh
from ropewalk.parallel.stop import listen_for_stop
from ropewalk.partition.choose import Sharing
from ropewalk.recipe.spec import Stage
from ropewalk.train.batches import StepBatches, make_batches
from ropewalk.train.journal import Journal
from ropewalk.train.measure import Measure
from ropewalk.train.schedule import annealing_share, learning_rate
from ropewalk.train.step import train_step
from ropewalk.train.tally import Tally
from ropewalk.train.watch import describe_step

SKIPS_ALLOWED = 10
"""Steps of a stage that may be skipped for a loss or gradient that is not finite."""


@dataclass(frozen=True)
class StageJob:
    """One stage's work, the same from its first step to its last."""

    spec: Stage
    steps: int
    rows: int
    feed: Feed
    mesh: Mesh
    sharing: Sharing
    journal: Journal
    checkpoints: Path
    measure: Measure | None = None
    """Gives ``retrieval``, where ``until`` asks for it."""
    kinds: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """What each source belongs to (train/tally.py)."""


def run_loop(state: TrainState, job: StageJob) -> TrainState:
    """Train from ``state`` on; the state that comes back has been saved. ``ended`` is empty if a stop was asked for."""
    tally = Tally(job.feed.sources, job.spec.reach_tokens, job.kinds)
    first = job.mesh.rank == 0
    name = f"stage {state.stage}"
    mix = job.feed.realised(state.cursor)
    with (
        closing(_look_ahead(job, state.cursor)) as stream,
        watch(name, job.steps - state.step, unit="steps") if first else nullcontext(_show_nothing) as advance,
        listen_for_stop() as asked,
    ):
        begun = time.perf_counter()
        for batches in stream:
            rate = learning_rate(state.step, schedule=job.spec.schedule, peak=job.spec.lr, steps=job.steps)
            before = state.tokens
            anneal_positions(state.model, annealing_share(state.step, steps=job.spec.anneal_steps))
            state, rows = train_step(state, batches, mesh=job.mesh, tally=tally, rate=rate, clip=job.spec.clip)
            now = time.perf_counter()
            speed, begun = (state.tokens - before) / (now - begun), now
            rows.append(Row(state.stage, state.step, "tokens_per_second", speed, "tokens/s"))
            if state.step % job.spec.panel_steps == 0 or state.step == job.steps:
                state, averages = _close_panel(state, job, tally)
                rows += averages
                mix = job.feed.realised(state.cursor)
            job.journal.append(rows)
            advance(1, note=describe_step(rows, mix))
            _end_if_astray(state)
            stopping = bool(max_over_ranks(torch.tensor([asked()], dtype=torch.float64)))
            if state.ended or stopping or state.step % job.spec.checkpoint_steps == 0:
                job.journal.flush()
                save(state, job.checkpoints, keep=job.spec.keep)
            if state.ended or stopping:
                break
    return state


def _look_ahead(job: StageJob, cursor: int) -> Generator[StepBatches, None, None]:
    """Each step's batches, read and cut in a thread while the step before is computed."""

    def submit() -> Future[StepBatches]:
        return ahead.submit(
            make_batches,
            job.feed,
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
            if cursor + job.rows <= job.feed.rows:
                upcoming = submit()
            yield batches


def _close_panel(state: TrainState, job: StageJob, tally: Tally) -> tuple[TrainState, list[Row]]:
    """The averages since the last panel, and whether they end the stage."""
    rows = list(tally.panel(state.sums, stage=state.stage, step=state.step)) if state.sums else []
    ended = "limit" if state.step == job.steps else ""
    until = job.spec.until
    if until is not None:
        value = {row.name: row.value for row in rows}.get(until.metric)
        if job.measure is not None:
            value = job.measure(state)
            rows.append(Row(state.stage, state.step, until.metric, value, "share"))
        falling = until.metric.startswith("loss")
        settled = state.step >= job.spec.anneal_steps  # before that it is not the model that will be written
        solved = settled and value is not None and (value <= until.value if falling else value >= until.value)
        ended = "solved" if solved else ended
        if ended:
            rows.append(Row(state.stage, state.step, "stage/solved", float(solved), "1"))
    return dataclasses.replace(state, sums=(), ended=ended), rows


def _end_if_astray(state: TrainState) -> None:
    if state.skipped > SKIPS_ALLOWED:
        raise UserError(
            "training does not stay finite",
            where=f"stages.{state.stage}",
            why=f"{state.skipped} of {state.step} steps had a loss or a gradient that was not finite, and were skipped",
            fix="lower lr or clip, lengthen schedule.warmup, or look at the text of the rows around these steps",
        )


def _show_nothing(amount: float = 1, *, note: str = "") -> None:
    """What ranks beside the first show."""
