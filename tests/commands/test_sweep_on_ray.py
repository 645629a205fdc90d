"""A study on Ray: tasks run the command itself, an error comes back as it was raised, and the others are stopped."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ropewalk.commands import sweep_on_ray as module
from ropewalk.commands.sweep_on_ray import run_task, sweep_on_ray
from ropewalk.core.error import STOPPED_CODE, UserError
from ropewalk.recipe.sweep import RayTasks


class StubRay(SimpleNamespace):
    """Ray as far as it is used: a task runs when it is waited for."""

    def __init__(self) -> None:
        super().__init__(asked=[], cancelled=[])

    def remote(self, **needs: Any) -> Any:
        self.asked.append(needs)
        return lambda work: SimpleNamespace(remote=lambda *given: (work, given))

    def wait(self, running: list[Any], num_returns: int) -> tuple[list[Any], list[Any]]:
        return running[:num_returns], running[num_returns:]

    def get(self, task: Any) -> Any:
        work, given = task
        return work(*given)

    def cancel(self, task: Any) -> None:
        self.cancelled.append(task)


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> StubRay:
    """A stub, and a command in the interpreter's place that writes down how it was called and ends as it is told."""
    stub = StubRay()
    monkeypatch.setattr(module, "start_ray", lambda where, *, instead: stub)
    command = tmp_path / "python"
    command.write_text('#!/bin/sh\necho "$PWD $*" >> calls\n[ -f end.sh ] && . ./end.sh\nexit 0\n')
    command.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(command))
    monkeypatch.chdir(tmp_path)
    return stub


def test_each_task_runs_the_command_here_without_ray(ray: StubRay, tmp_path: Path) -> None:
    sweep_on_ray(Path("study.yaml"), ["seeds=[1]"], RayTasks(tasks=2, cpus=4, gpus=1))
    line = f"{tmp_path} -m ropewalk sweep study.yaml seeds=[1] ray=null --json"
    assert (tmp_path / "calls").read_text().splitlines() == [line, line]
    assert ray.asked == [{"num_cpus": 4, "num_gpus": 1, "max_retries": 0}] and not ray.cancelled


def test_the_error_of_a_task_is_raised_here_and_the_others_stop(ray: StubRay, tmp_path: Path) -> None:
    told = {"what": "the recipe breaks a rule", "where": "stages.0.lr", "why": "too large" * 500, "fix": "less"}
    error = json.dumps({"error": told})
    (tmp_path / "end.sh").write_text(f"echo progress\necho '{error}'\nexit 2\n")
    with pytest.raises(UserError) as raised:
        sweep_on_ray(Path("study.yaml"), [], RayTasks(tasks=3))
    assert raised.value.where == "stages.0.lr" and len(ray.cancelled) == 2
    (tmp_path / "end.sh").write_text("echo rank 1 was killed >&2\nexit 1\n")
    with pytest.raises(RuntimeError, match=r"code 1: rank 1 was killed"):
        sweep_on_ray(Path("study.yaml"), [], RayTasks(tasks=1))
    assert run_task([sys.executable], str(tmp_path))["code"] == 1


def test_a_task_that_stopped_and_saved_ends_the_command_as_it_ended(ray: StubRay, tmp_path: Path) -> None:
    (tmp_path / "end.sh").write_text(f"exit {STOPPED_CODE}\n")
    with pytest.raises(SystemExit) as raised:
        sweep_on_ray(Path("study.yaml"), [], RayTasks(tasks=2))
    assert raised.value.code == STOPPED_CODE and len(ray.cancelled) == 1
