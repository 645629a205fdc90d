"""A hang has a name: a rank that is stopped, one that computes for ever, and a slow one that is left alone."""

import os
import signal
import time

import pytest
import torch
import torch.distributed as dist

from ropewalk.parallel.hang import Clock, describe_hang, watch_for_hang
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
    assert time.monotonic() - begun < 15
    assert "all_reduce" in capfd.readouterr().err, "stacks are shown"


def test_slow_steps_are_no_hang() -> None:
    def slowly() -> int:
        with watch_for_hang(1.0) as clock:
            for _ in range(3):
                time.sleep(0.5)
                dist.all_reduce(torch.zeros(1))
                clock.tick()
            with clock.at_leisure():
                time.sleep(1.8)
        return clock.steps

    assert run_ranks(slowly, 2) == [3, 3]


def test_patience_follows_the_slowest_step() -> None:
    clock = Clock(None)
    assert clock.patience_seconds == 480, "the first step may compile"
    for _ in range(3):
        clock.tick()
    assert clock.patience_seconds == 60
    assert Clock(7.0).patience_seconds == 7


def test_a_roll_without_a_culprit_says_so() -> None:
    stands = {"step": 4, "where": "x.py:1 in f", "waits": True}
    assert "no rank differs from the others" in describe_hang({0: stands, 1: stands}, 2, waited_seconds=9)
    assert "ranks 1, 2 do not answer" in describe_hang({0: stands}, 3, waited_seconds=9)
