"""A hang has a name: a rank that is stopped, one that computes for ever, and a slow one that is left alone."""

import linecache
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist

from ropewalk.parallel import device, hang
from ropewalk.parallel.hang import Clock, describe_hang, tell_stand, watch_for_hang
from ropewalk.parallel.launch import RankError, run_ranks


def go_in_step(culprit: int, how: str) -> None:
    with watch_for_hang(1.5) as clock:
        for step in range(200):
            if step == 3 and dist.get_rank() == culprit:
                if how == "stop":
                    os.kill(os.getpid(), signal.SIGSTOP)
                time.sleep(60)
            dist.all_reduce(torch.zeros(1))
            clock.tick()
            time.sleep(0.01)


@pytest.mark.parametrize(
    ("how", "words"),
    [("stop", "rank 1 does not answer"), ("sleep", "rank 1 does not reach the point where the others wait")],
)
def test_the_rank_that_hangs_is_named(how: str, words: str, capfd: pytest.CaptureFixture[str]) -> None:
    begun = time.monotonic()
    with pytest.raises(RankError, match=f"has been hanging for [\\s\\S]*{words}"):
        run_ranks(go_in_step, 3, 1, how)
    assert time.monotonic() - begun < 40
    assert "all_reduce" in capfd.readouterr().err, "stacks are shown"


def test_slow_steps_are_no_hang() -> None:
    def slowly() -> int:
        with watch_for_hang(2.0) as clock:  # a second and a half for what a busy machine does in between
            for _ in range(3):
                time.sleep(0.5)
                dist.all_reduce(torch.zeros(1))
                clock.tick()
            with clock.at_leisure():
                time.sleep(2.4)
        return clock.steps

    assert run_ranks(slowly, 2) == [3, 3]


def test_patience_follows_the_slowest_step() -> None:
    clock = Clock(None)
    assert clock.patience_seconds == 480, "the first step may compile"
    for _ in range(3):
        clock.tick()
    assert clock.patience_seconds == 60
    assert Clock(7.0).patience_seconds == 7


def test_positions_without_a_culprit_say_so() -> None:
    stands = {"step": 4, "where": "x.py:1 in f", "waits": True}
    assert "no rank differs from the others" in describe_hang({0: stands, 1: stands}, 2, waited_seconds=9)
    assert "ranks 1, 2 do not answer" in describe_hang({0: stands}, 3, waited_seconds=9)


def make_step(body: str) -> Callable[[Any], None]:
    """A function of ours, by its file's name, with this body. It is given a tensor that is never ready."""
    name, source = f"/made/ropewalk/{abs(hash(body))}.py", f"def step(loss):\n    {body}\n"
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    made: dict[str, Any] = {}
    exec(compile(source, name, "exec"), made)
    found: Callable[[Any], None] = made["step"]
    return found


def stuck(lock: Any) -> Any:
    """A tensor whose values the device never writes: each method that reads one waits for ever, in C as torch's do."""
    names = ("item", "tolist", "cpu", "backward", "synchronize", "wait", "matmul")
    return SimpleNamespace(**dict.fromkeys(names, lock.acquire))


@pytest.mark.parametrize(
    ("body", "on_cpu", "on_gpu"),
    [
        ("return float(loss.item())", False, True),
        ("return [\n        loss.tolist(\n        ), loss.matmul]", False, True),
        ("host = loss.cpu()", False, True),
        ("loss.backward()", False, True),
        ("loss.synchronize()", False, True),
        ("loss.wait()", True, True),
        ("loss.matmul()", False, False),
        ("rest = (loss.matmul(), loss.item)", False, False),
    ],
)
def test_a_host_that_waits_for_its_gpu_counts_as_waiting(body: str, on_cpu: bool, on_gpu: bool) -> None:
    lock = threading.Lock()
    lock.acquire()
    thread = threading.Thread(target=make_step(body), args=(stuck(lock),))
    thread.start()
    while (frame := sys._current_frames()[thread.ident or 0]).f_code.co_name != "step":
        time.sleep(0.001)
    found = [tell_stand(frame, ahead=ahead) for ahead in (False, True)]
    lock.release()
    thread.join()
    assert [each["waits"] for each in found] == [on_cpu, on_gpu]
    assert found[0]["where"].endswith("in step")


def wait_on_a_gpu(culprit: int) -> None:
    """All hosts wait for their devices, as far as their code tells; one rank's device never comes to a message."""
    device._taken[:] = [torch.device("cuda", 0)]
    lock = threading.Lock()
    lock.acquire()
    step = make_step("loss.item()")
    with watch_for_hang(1.0):
        dist.all_reduce(torch.zeros(2))
        if dist.get_rank() != culprit:
            threading.Thread(target=dist.all_reduce, args=(torch.zeros(3, 5),), daemon=True).start()
        step(stuck(lock))


def test_on_a_gpu_the_flight_recorder_names_the_rank_that_is_missing(capfd: pytest.CaptureFixture[str]) -> None:
    words = (
        r"has been hanging for [\d]+ s: rank 1 does not reach the point where the others wait[\s\S]*"
        r"rank 1 has not begun message 3 of group gloo 0 \(default_pg\), in which ranks 0, 2 wait: "
        r"all_reduce of sizes \[\[3, 5\]\]"
    )
    with pytest.raises(RankError, match=words):
        run_ranks(wait_on_a_gpu, 3, 1)


def compute_on_a_gpu(culprit: int) -> None:
    """One host computes for ever and the others wait for their devices; no message is open."""
    device._taken[:] = [torch.device("cuda", 0)]
    lock = threading.Lock()
    lock.acquire()
    step = make_step("loss.matmul()" if dist.get_rank() == culprit else "loss.item()")
    with watch_for_hang(0.5):
        step(stuck(lock))


def test_on_a_gpu_a_host_that_computes_is_named_without_a_recorder(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RankError, match="rank 1 does not reach the point where the others wait"):
        run_ranks(compute_on_a_gpu, 2, 1)


def test_a_rank_that_hangs_in_its_recorder_does_not_hide_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = hang.read_recorders

    def read() -> Any:
        if dist.get_rank() == 0:
            time.sleep(60)
        return plain()

    monkeypatch.setattr(hang, "read_recorders", read)
    with pytest.raises(RankError, match="rank 1 does not reach the point where the others wait"):
        run_ranks(go_in_step, 3, 1, "sleep")
