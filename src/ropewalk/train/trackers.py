"""Send a run's metrics to the trackers in its recipe; ``metrics.jsonl`` stays the complete record.

Each tracker has one function here, which imports its library, and a thread of its own. So a slow server delays no step.
An error of the library stays in this thread. It is printed once and ends the tracker, but not the run. A resumed run is
the same run in the tracker: its id lies in the run folder, and its steps are counted over all stages.
"""

import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.pool import AsyncResult, ThreadPool
from pathlib import Path
from typing import Any
from uuid import uuid4

from ropewalk.core.artifact import write_whole
from ropewalk.core.progress import warn
from ropewalk.core.read_json import read_written
from ropewalk.core.record import Metric
from ropewalk.core.run_folder import RunFolder
from ropewalk.core.strict_json import spell_json
from ropewalk.recipe.trackers import Tracker

PROJECT = "ropewalk"
_IDS = "trackers.json"
_MOST_WAITING = 1000
_CLOSE_SECONDS = 60.0


@dataclass(frozen=True)
class TrackedRun:
    """A run in the form that trackers need. ``steps`` is the number of steps taken so far, over all stages."""

    run: Path
    recipe: Mapping[str, Any]
    steps: int

    @property
    def name(self) -> str:
        return self.run.resolve().name

    def folder(self, tracker: Tracker) -> Path:
        """Return the folder for a tracker that has no other place for its files. It is made if it is missing."""
        folder = RunFolder(self.run).trackers / tracker
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def find_id(self, tracker: str, make: Callable[[], str]) -> str:
        """Return the run's id in a tracker. It is in the run folder; if not, ``make()`` gives one, which is stored."""
        path = self.run / _IDS
        fix = "remove it: the trackers then start a new run"
        ids: dict[str, str] = read_written(path, fix=fix) if path.exists() else {}
        if tracker not in ids:
            ids[tracker] = make()
            write_whole(path, spell_json(ids, indent=1))
        return ids[tracker]


@dataclass(frozen=True)
class Sink:
    """An open tracker with two functions: ``log(step, values)`` and ``close()``."""

    log: Callable[[int, Mapping[str, float]], object]
    close: Callable[[], object]


def open_tensorboard(run: TrackedRun) -> Sink:
    """Write event files into the run folder. Earlier events after the step of the resume are marked as dropped."""
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(run.folder("tensorboard"), purge_step=run.steps + 1)

    def log(step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, step)

    return Sink(log, writer.close)


def open_wandb(run: TrackedRun) -> Sink:
    """Open a wandb run. Our step is logged as a metric and is the x axis of all others.

    The step of wandb itself can only rise, but a resumed run repeats some steps.
    """
    import wandb

    opened = wandb.init(
        project=PROJECT,
        name=run.name,
        id=run.find_id("wandb", _new_id),
        resume="allow",
        dir=run.folder("wandb"),
        config=dict(run.recipe),
        settings=wandb.Settings(silent=True, console="off"),
    )
    opened.define_metric("step")
    opened.define_metric("*", step_metric="step")
    return Sink(lambda step, values: opened.log({**values, "step": step}), opened.finish)


def open_trackio(run: TrackedRun) -> Sink:
    """Open a trackio run. trackio identifies a run by its name, so the id is part of the name.

    The data lie in trackio's own default folder.
    """
    import trackio

    name = f"{run.name}-{run.find_id('trackio', _new_id)[:8]}"
    opened = trackio.init(project=PROJECT, name=name, resume="allow", config=dict(run.recipe), embed=False)
    return Sink(lambda step, values: opened.log(dict(values), step=step), opened.finish)


def open_mlflow(run: TrackedRun) -> Sink:
    """Open an MLflow run in the store of MLflow's own settings; without them, in a database in the run folder."""
    import mlflow
    from mlflow.entities import Metric as MlflowMetric

    folder = run.folder("mlflow").resolve()
    at_home = not mlflow.is_tracking_uri_set()
    client = mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db" if at_home else None)
    experiment = client.get_experiment_by_name(PROJECT)
    number = (
        client.create_experiment(PROJECT, (folder / "artifacts").as_uri() if at_home else None)
        if experiment is None
        else experiment.experiment_id
    )

    def make() -> str:
        made: str = client.create_run(number, run_name=run.name).info.run_id
        client.log_dict(made, dict(run.recipe), "recipe.json")
        return made

    run_id = run.find_id("mlflow", make)
    client.update_run(run_id, status="RUNNING")

    def log(step: int, values: Mapping[str, float]) -> None:
        now = int(time.time() * 1000)
        named = {re.sub(r"[^\w.\- :/]", "_", name): value for name, value in values.items()}
        client.log_batch(run_id, [MlflowMetric(name, value, now, step) for name, value in named.items()])

    return Sink(log, lambda: client.set_terminated(run_id))


def open_swanlab(run: TrackedRun) -> Sink:
    """Open a SwanLab run in the mode of SwanLab's own settings. The default mode is its cloud."""
    import swanlab

    opened = swanlab.init(
        project=PROJECT,
        experiment_name=run.name,
        id=run.find_id("swanlab", _new_id),
        resume="allow",
        logdir=str(run.folder("swanlab")),
        config=dict(run.recipe),
    )
    return Sink(lambda step, values: opened.log(dict(values), step=step), swanlab.finish)


OPENERS: Mapping[Tracker, Callable[[TrackedRun], Sink]] = {
    "tensorboard": open_tensorboard,
    "wandb": open_wandb,
    "trackio": open_trackio,
    "mlflow": open_mlflow,
    "swanlab": open_swanlab,
}


class Trackers:
    """The trackers of one stage. The end of the ``with`` block closes them.

    ``steps_before`` is the number of steps planned before the stage.
    """

    def __init__(self, names: Sequence[Tracker], run: TrackedRun, *, steps_before: int = 0) -> None:
        self._steps_before = steps_before
        self._threads = [_Thread(name, OPENERS[name], run) for name in names]
        self._end = ExitStack()

    def __enter__(self) -> "Trackers":
        for thread in self._threads:
            self._end.callback(thread.close)
        return self

    def __exit__(self, *_: object) -> None:
        self._end.close()

    def log(self, metrics: Iterable[Metric]) -> None:
        """Send the metrics of one step to all trackers."""
        metrics = list(metrics)
        for thread in self._threads if metrics else ():
            thread.log(self._steps_before + metrics[-1].step, {metric.name: metric.value for metric in metrics})


class _Thread:
    """The thread of one tracker. ``_waiting`` holds the calls that are not done yet.

    It is a daemon, as those of a ThreadPool are: a process would not end while an executor's thread waits for a server.
    """

    def __init__(self, name: Tracker, opener: Callable[[TrackedRun], Sink], run: TrackedRun) -> None:
        self._name, self._errors = name, deque[BaseException]()
        self._pool, self._given_up = ThreadPool(1), False
        self._opening = self._pool.apply_async(opener, (run,), error_callback=self._errors.append)
        self._waiting: deque[AsyncResult[Any]] = deque([self._opening])

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._tell(lambda sink: sink.log(step, values))
        if len(self._waiting) > _MOST_WAITING:
            self._give_up(f"it is {_MOST_WAITING} steps behind")

    def close(self) -> None:
        self._tell(lambda sink: sink.close())
        deadline = time.monotonic() + _CLOSE_SECONDS
        for call in tuple(self._waiting):
            call.wait(max(0.0, deadline - time.monotonic()))
        self._look()
        if self._waiting:
            self._give_up(f"it did not end within {_CLOSE_SECONDS:.0f} s")
        self._pool.close()

    def _tell(self, order: Callable[[Sink], object]) -> None:
        if not self._given_up:
            self._waiting.append(self._pool.apply_async(self._do, (order,), error_callback=self._errors.append))
            self._look()

    def _do(self, order: Callable[[Sink], object]) -> None:
        if not self._given_up:
            order(self._opening.get())

    def _look(self) -> None:
        while self._waiting and self._waiting[0].ready():
            self._waiting.popleft()
        if self._errors:
            self._give_up(f"{type(self._errors[0]).__name__}: {self._errors[0]}")

    def _give_up(self, why: str) -> None:
        if not self._given_up:
            self._given_up = True
            warn(f"WARNING: the tracker {self._name} receives no more metrics, but training continues: {why}")
            self._waiting.clear()


def _new_id() -> str:
    return uuid4().hex[:21]
