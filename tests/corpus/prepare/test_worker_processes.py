"""A preparation's worker processes: how many, what they answer, and what is told of one that fails or dies."""

import errno
import json
import os
import subprocess
import sys
import time
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ropewalk.core.error import RankError, UserError
from ropewalk.corpus.prepare import workers
from ropewalk.corpus.prepare.count_cores import count_cores

PARENT_SIDE = """#!{python} -SEs
import json, os, signal, sys, time
for line in sys.stdin:
    task = json.loads(line)
    if task == "work for hours":
        time.sleep(100)
    elif task == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    elif task == "ended":
        sys.exit(3)
    else:
        time.sleep(0.2)  # the other one has begun
        fault = dict.fromkeys(("what", "where", "why", "fix"), "bad line")
        print(json.dumps({{"bytes": 1, "fault": fault}}), flush=True)
"""
"""In the place of a worker: it does what its task says."""


@pytest.fixture
def obedient_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "worker"
    program.write_text(PARENT_SIDE.format(python=sys.executable))
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))


def run(*tasks: str) -> None:
    workers.run_tasks([json.dumps(task) for task in tasks], workers="processes", count=2, advance=lambda _: None)


@pytest.mark.usefixtures("obedient_workers")
def test_a_fault_is_told_while_another_worker_has_hours_of_work_left() -> None:
    begun = time.monotonic()
    with pytest.raises(UserError, match="bad line"):
        run("work for hours", "find a fault")
    assert time.monotonic() - begun < 60


@pytest.mark.usefixtures("obedient_workers")
def test_a_killed_worker_is_told_with_what_needs_less_memory() -> None:
    with pytest.raises(RankError, match="killed by signal 9: most often memory ran out, and a smaller"):
        run("work for hours", "killed")
    with pytest.raises(RuntimeError, match="ended before its task did, with code 3") as caught:
        run("work for hours", "ended")
    assert not isinstance(caught.value, RankError)  # its traceback is ours


def test_a_task_for_a_worker_that_is_gone_says_how_it_ended() -> None:
    gone = subprocess.Popen(["/bin/sh", "-c", "kill -9 $$"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    gone.wait()
    waiting: Any = workers.queue.Queue()
    waiting.put("{}")
    with pytest.raises(RankError, match="killed by signal 9"):
        workers._keep_busy(gone, waiting, lambda _: None)
    gone.communicate()


def test_a_fault_on_ray_stops_the_tasks_that_have_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    fault = dict.fromkeys(("what", "where", "why", "fix"), "bad line")
    cancelled: list[Any] = []
    ray = SimpleNamespace(
        remote=lambda **_: lambda _: SimpleNamespace(remote=lambda line, *_: line),
        wait=lambda running, num_returns: (running[-1:], running[:-1]),
        get=lambda task: fault if "bad" in task else {},
        cancel=cancelled.append,
    )
    monkeypatch.setattr(workers, "start_ray", lambda *_, **__: ray)
    done: list[float] = []
    tasks = [json.dumps({"job": name, "task": {"bytes": 1}}) for name in ("long", "good", "bad", "never begun")]
    with pytest.raises(UserError, match="bad line"):
        workers.run_tasks(tasks, workers="ray", count=2, advance=done.append)
    assert done == [1] and cancelled == tasks[:1]
    cancelled.clear()
    workers.run_tasks(tasks[:2], workers="ray", count=2, advance=done.append)
    assert done == [1, 1, 1] and not cancelled


def test_what_a_function_of_the_user_prints_is_no_reply(monkeypatch: pytest.MonkeyPatch) -> None:
    def print_much(line: str, advance: Any) -> None:
        print("loading my model")
        subprocess.run(["echo", "and its library"], check=True)
        advance(7.0)

    def be_worker(tasks: int, replies: int) -> None:
        os.dup2(tasks, 0)
        os.dup2(replies, 1)
        sys.stdin, sys.stdout, sys.argv = os.fdopen(0), os.fdopen(1, "w", buffering=1), ["-c", "en"]
        os.close(own_end)
        workers.serve()

    monkeypatch.setattr(workers, "do_task", print_much)
    (tasks, own_end), (own_replies, replies) = os.pipe(), os.pipe()
    process = get_context("fork").Process(target=be_worker, args=(tasks, replies))
    process.start()
    os.close(tasks)
    os.close(replies)
    with os.fdopen(own_replies) as told:
        os.write(own_end, b"{}\n")
        assert json.loads(told.readline()) == {"bytes": 7.0, "fault": {}}
        os.close(own_end)
        assert told.read() == ""
    process.join()


def test_in_one_process_too_results_alone_are_on_standard_output(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(workers, "do_task", lambda *_: print("loading my model"))
    workers.run_tasks(["{}"], workers="processes", count=1, advance=lambda _: None)
    assert capfd.readouterr() == ("", "loading my model\n")


def test_a_disk_over_quota_in_a_worker_is_told_as_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def write(fault: int) -> dict[str, str]:
        def fail(*_: Any) -> None:
            raise OSError(fault, os.strerror(fault), "/store/.shards/1")

        monkeypatch.setattr(workers, "do_task", fail)
        return workers._do_quietly("{}", lambda _: None)

    assert write(errno.EDQUOT)["where"] == "/store/.shards/1"
    with pytest.raises(ConnectionResetError):
        write(errno.ECONNRESET)


@pytest.mark.parametrize(
    ("own", "files", "cores"),
    [
        ("0::/\n", {"cpu.max": "250000 100000\n"}, 3),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 64),
        ("0::/job/step\n", {"job/cpu.max": "1600000 100000", "job/step/cpu.max": "max 100000"}, 16),
        ("0::/job/step\n", {"cpu.max": "10000 100000"}, 1),
        (
            "4:memory:/a\n3:cpu,cpuacct:/a\n",
            {"cpu/a/cpu.cfs_quota_us": "400000", "cpu/a/cpu.cfs_period_us": "100000"},
            4,
        ),
        ("3:cpu,cpuacct:/a\n", {"cpu/a/cpu.cfs_quota_us": "-1", "cpu/a/cpu.cfs_period_us": "100000"}, 64),
        ("0::/\n", {"cpu.max": "strange\n"}, 64),
        (None, {}, 64),
    ],
)
def test_workers_are_no_more_than_a_container_has_processors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: str | None, files: dict[str, str], cores: int
) -> None:
    """A pod with ``limits: {cpu: 16}`` sees all processors of its machine."""
    for name, text in files.items():
        path = tmp_path / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    if own is not None:
        (tmp_path / "proc/self").mkdir(parents=True)
        (tmp_path / "proc/self/cgroup").write_text(own)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    assert count_cores(tmp_path) == cores
    assert workers.count_workers("processes", 5) == 5
