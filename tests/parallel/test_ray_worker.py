"""Workers of Ray Train: each follows its child, all report together, and their exit codes become one."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch.distributed as dist

from ropewalk.core.error import RankError, UserError
from ropewalk.parallel import ray_worker
from ropewalk.parallel.ray_worker import (
    StoppedOnRayError,
    configure_workers,
    fit_trainer,
    follow_child,
    judge_codes,
    read_newest,
    start_child,
)

SECONDS = 30.0


class Train:
    """What ``ray.train`` does for two workers: a report waits for both, as Ray's does."""

    def __init__(self) -> None:
        self.reported: list[dict[str, Any]] = []
        self.files: list[dict[str, Any]] = []
        self.preempted: Any = None
        self._barrier = threading.Barrier(2)

    class Checkpoint:
        @staticmethod
        def from_directory(folder: str) -> Any:
            return json.loads((Path(folder) / "ropewalk.json").read_text())

    def report(self, metrics: dict[str, Any], checkpoint: Any = None) -> None:
        self._barrier.wait(SECONDS)
        self.reported.append(metrics)
        self.files += [] if checkpoint is None else [checkpoint]

    def get_preemption_info(self) -> Any:
        self._barrier.wait(SECONDS)
        return self.preempted


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch) -> Train:
    found, ray = Train(), ModuleType("ray")
    ray.train = found  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setattr(ray_worker, "_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(ray_worker, "_ROUND_SECONDS", 0.05)
    return found


def follow(commands: Sequence[str], run: Path) -> list[list[int]]:
    """The exit codes that each of two workers sees of the children that run these shell commands."""
    store = dist.HashStore()
    children = [subprocess.Popen(["/bin/sh", "-c", command], stdin=subprocess.PIPE) for command in commands]
    with ThreadPoolExecutor(2) as pool:
        started = [pool.submit(follow_child, child, store, rank, 2, run) for rank, child in enumerate(children)]
        found = [each.result(SECONDS) for each in started]
    for child in children:
        assert child.stdin is not None
        child.stdin.close()
    return found


def write_metrics(run: Path) -> None:
    run.mkdir()
    rows = [{"stage": 0, "step": step, "name": "loss/train", "value": 3.0 - step, "unit": "nats"} for step in (1, 2)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (run / "metrics.jsonl").write_text(text + '{"stage": 0, "st')


def test_both_workers_report_the_newest_step_together_until_both_children_end(train: Train, tmp_path: Path) -> None:
    write_metrics(tmp_path / "run")
    assert follow(["exit 0", "sleep 0.3"], tmp_path / "run") == [[0, 0]] * 2
    newest = {"stage": 0, "step": 2, "loss/train": 1.0}
    assert len(train.reported) >= 4 and len(train.reported) % 2 == 0, "each round is reported by both"
    assert newest.items() <= train.reported[0].items() and "exit_code" not in train.reported[0]
    assert train.reported[-1] == {**newest, "run": str(tmp_path / "run"), "exit_code": 0}
    assert train.files == [train.reported[-1]], "Ray's result has the metrics of a report with a file"
    assert read_newest(tmp_path / "nowhere") == {}


def test_the_children_of_other_workers_end_where_one_fails(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert follow(["exit 2", "exec sleep 60"], tmp_path) == [[2, -signal.SIGTERM]] * 2
    assert train.reported[-1]["exit_code"] == 2
    monkeypatch.setattr(ray_worker, "_STOP_SECONDS", 0.1)
    stubborn = "trap '' TERM; touch ready; while :; do sleep 0.05; done"
    late = "while [ ! -e ready ]; do sleep 0.02; done; exit 1"
    monkeypatch.chdir(tmp_path)
    assert follow([stubborn, late], tmp_path) == [[-signal.SIGKILL, 1]] * 2


def test_a_machine_that_is_about_to_go_lets_its_ranks_save(train: Train, tmp_path: Path) -> None:
    train.preempted = "soon"
    saves = "trap 'exit 75' TERM; while :; do sleep 0.02; done"
    assert follow([saves, saves], tmp_path) in (
        [[75, 75]] * 2,
        [[-signal.SIGTERM, 75]] * 2,
        [[75, -signal.SIGTERM]] * 2,
    )


def test_exit_codes_become_one_and_ray_tries_again_only_where_that_helps() -> None:
    assert judge_codes([0, 0], "run") == 0 and judge_codes([1, 2, 75], "run") == 2
    assert judge_codes([3, 3], "run") == 3 and judge_codes([4, 4], "run") == 4, (
        "a finished run whose targets are strict"
    )
    with pytest.raises(StoppedOnRayError, match="the same run continues from /shared/run"):
        judge_codes([75, 0], "/shared/run")
    with pytest.raises(RankError, match="rank 1 of 2 ended with exit code -9") as raised:
        judge_codes([75, -9], "run")
    assert not isinstance(raised.value, StoppedOnRayError)


def test_the_driver_checks_the_recipe_and_names_every_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = configure_workers("quickstart", ["parallel.device=cpu"])
    assert config["recipe"] == "quickstart" and config["run"] == str(tmp_path / "runs" / "quickstart")
    assert (config["ranks"], config["use_gpu"], config["folder"]) == (2, False, str(tmp_path))
    (tmp_path / "mine.yaml").write_text((Path(__file__).parents[2] / "recipes" / "quickstart.yaml").read_text())
    assert configure_workers("mine.yaml")["recipe"] == str(tmp_path / "mine.yaml")
    with pytest.raises(UserError, match="the number of workers is open"):
        configure_workers("quickstart", ["parallel.ranks=auto"])
    with pytest.raises(UserError, match="cannot be read"):
        configure_workers("nowhere.yaml")


def test_the_driver_ends_with_the_exit_code_of_ropewalk(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    class FailedError(Exception):
        worker_failures: dict[int, Exception] = {}  # noqa: RUF012

    class Trainer:
        def __init__(self, failure: Exception | None = None) -> None:
            self.failure, self.metrics = failure, {"exit_code": 2}

        def fit(self) -> "Trainer":
            if self.failure is None:
                return self
            error = FailedError("a worker failed")
            error.worker_failures = {0: self.failure}
            raise error

    train_module = ModuleType("ray.train")
    train_module.TrainingFailedError = FailedError  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ray.train", train_module)
    failures = (None, StoppedOnRayError("saved"), RankError("rank 0"))
    assert [fit_trainer(Trainer(each)) for each in failures] == [2, 75, 1]


def test_a_child_ends_with_its_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "wait.sh"
    program.write_text("#!/bin/sh\nread line\nexit 7\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    with start_child(["run", "quickstart"], folder=tmp_path, environment=dict(os.environ)) as child:
        assert child.args == [str(program), "-m", "ropewalk.cli.child", "run", "quickstart"]
        begun = time.monotonic()
        assert os.getpgid(child.pid) == child.pid and child.poll() is None
    assert child.returncode == 7 and time.monotonic() - begun < SECONDS
