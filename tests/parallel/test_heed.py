"""A command that is asked to stop ends with 75 wherever the signal finds it, and its ranks are neither lost nor started
again; the second Ctrl-C ends at once."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from ropewalk.core.error import RankError
from ropewalk.corpus.prepare import workers
from ropewalk.parallel import launch
from ropewalk.parallel.launch import run_ranks
from ropewalk.parallel.stop import heed_stop, listen_for_stop

LONG = 60.0
Scenario = Callable[[Path], Any]


def wait_here(folder: Path) -> None:
    """Say that the moment has come, and stay in it."""
    (folder / f"here-{os.getpid()}").touch()
    time.sleep(LONG)


def while_joining(folder: Path) -> None:
    plain = launch._join_group

    def join(start: launch.RankStart) -> None:
        if start.rank == 1:
            wait_here(folder)
        plain(start)

    launch._join_group = join
    run_ranks(lambda: 0, 2)


def while_measuring(folder: Path) -> None:
    run_ranks(lambda: wait_here(folder) if dist.get_rank() else dist.barrier(), 2)


def while_training(folder: Path) -> None:
    def train() -> str:
        with listen_for_stop() as asked:
            (folder / f"here-{os.getpid()}").touch()
            while not asked():
                time.sleep(0.01)
            dist.barrier()
            (folder / f"saved-{dist.get_rank()}").touch()
        return "limit"  # as at the last step: the next stage must not begin

    assert run_ranks(train, 2) == ["limit", "limit"]
    raise AssertionError("the next stage has begun")


def while_preparing(folder: Path) -> None:
    wait_here(folder)


SCENARIOS = [while_joining, while_measuring, while_training, while_preparing]


class Command:
    """A forked process that heeds signals, in a session of its own."""

    def __init__(self, scenario: Scenario, folder: Path) -> None:
        self.folder, self.pid = folder, os.fork()
        if self.pid == 0:
            self._be(scenario)

    def _be(self, scenario: Scenario) -> None:
        code = 99
        try:
            os.setsid()
            os.dup2(os.open(self.folder / "said", os.O_CREAT | os.O_WRONLY | os.O_APPEND), 2)
            sys.stderr = os.fdopen(2, "w", buffering=1)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            with heed_stop():
                scenario(self.folder)
        except SystemExit as end:
            code = int(str(end.code))
        except KeyboardInterrupt:
            code = 130
        except RankError:
            code = 1
        finally:
            os._exit(code)

    def wait_for(self, pattern: str, count: int = 1) -> None:
        deadline = time.monotonic() + LONG
        while len(list(self.folder.glob(pattern))) < count:
            assert time.monotonic() < deadline, pattern
            time.sleep(0.01)

    def end(self, seconds: float = LONG) -> int:
        """Its exit code."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.01)
        os.killpg(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        return -1


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[Scenario], Command]]:
    yield lambda scenario: Command(scenario, tmp_path)


@pytest.mark.parametrize("group", [False, True], ids=["process", "group"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT], ids=lambda number: number.name)
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_it_ends_with_75(
    scenario: Scenario, number: signal.Signals, group: bool, start: Callable[[Scenario], Command], tmp_path: Path
) -> None:
    command = start(scenario)
    command.wait_for("here-*", 2 if scenario is while_training else 1)
    time.sleep(0.05)
    (os.killpg if group else os.kill)(command.pid, number)
    assert command.end() == 75, (tmp_path / "said").read_text()
    said = (tmp_path / "said").read_text()
    assert said.endswith("stopped on request, and saved: the same command continues from here\n")
    assert "once more" not in said, "ranks were started again"
    if scenario is while_training:
        assert len(list(tmp_path.glob("saved-*"))) == 2


def test_a_signal_between_two_starts_reaches_who_is_started_later(
    start: Callable[[Scenario], Command], tmp_path: Path
) -> None:
    def scenario(folder: Path) -> None:
        plain = launch.RankStart

        def make_start(rank: int, *rest: Any) -> launch.RankStart:
            if rank == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            return plain(rank, *rest)

        launch.RankStart = make_start  # type: ignore[assignment, misc]
        run_ranks((folder / "ran").touch, 2)

    assert start(scenario).end() == 75
    assert not (tmp_path / "ran").exists()


def test_the_second_ctrl_c_ends_at_once(start: Callable[[Scenario], Command], tmp_path: Path) -> None:
    def scenario(folder: Path) -> None:
        def save_slowly() -> None:
            with listen_for_stop() as asked:
                while not asked():
                    time.sleep(0.01)
                wait_here(folder)

        def begin() -> None:
            (folder / f"began-{os.getpid()}").touch()
            save_slowly()

        run_ranks(begin, 2)

    command = start(scenario)
    command.wait_for("began-*", 2)
    os.killpg(command.pid, signal.SIGINT)
    command.wait_for("here-*", 2)
    assert os.waitpid(command.pid, os.WNOHANG) == (0, 0), "it waits for what is saved"
    os.killpg(command.pid, signal.SIGINT)
    assert command.end(seconds=10) == 130
    assert "Ctrl-C again ends at once" in (tmp_path / "said").read_text()
    for path in tmp_path.glob("here-*"):
        with pytest.raises(ProcessLookupError):
            os.kill(int(path.name.removeprefix("here-")), 0)


def test_a_lost_rank_is_still_a_lost_rank(start: Callable[[Scenario], Command]) -> None:
    def scenario(folder: Path) -> None:
        def work() -> None:
            if dist.get_rank():
                os.kill(os.getpid(), signal.SIGTERM)
            wait_here(folder)  # both: a rank that gives its result first has not been lost

        run_ranks(work, 2)

    assert start(scenario).end() == 1


@pytest.mark.parametrize("of_rank", [True, False], ids=["rank", "command"])
def test_a_signal_that_another_thread_receives_is_heard(
    of_rank: bool, start: Callable[[Scenario], Command], tmp_path: Path
) -> None:
    """The kernel chooses the thread. Python's handler runs in the main thread alone, which is waiting."""

    def signal_this_thread() -> None:
        signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
        time.sleep(LONG)

    def scenario(folder: Path) -> None:
        def work() -> None:
            if dist.get_rank() and of_rank:
                signal_this_thread()
            wait_here(folder)

        if not of_rank:
            threading.Timer(0.5, signal_this_thread).start()
        run_ranks(work, 2)

    assert start(scenario).end() == (1 if of_rank else 75), (tmp_path / "said").read_text()


def test_a_preparation_hears_a_signal_that_another_thread_receives(
    start: Callable[[Scenario], Command], tmp_path: Path
) -> None:
    def scenario(folder: Path) -> None:
        def work(process: Any, *rest: Any) -> None:
            time.sleep(0.5)  # until the main thread waits
            signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
            process.wait()

        workers._keep_busy = work
        workers._run_on_processes(["task"], 1, lambda size_bytes: None)

    assert start(scenario).end() == 75, (tmp_path / "said").read_text()
