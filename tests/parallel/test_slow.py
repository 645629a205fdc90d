"""A rank that the others wait for is told from those that wait, and named once; uneven work is no slowness."""

import time

import torch
import torch.distributed as dist

from ropewalk.parallel.launch import run_ranks
from ropewalk.parallel.slow import STEPS, Slow, SlowWatch, watch_own_time


def test_who_waits_has_little_time_of_its_own() -> None:
    def go_in_step() -> float:
        with watch_own_time() as own:
            for _ in range(6):
                time.sleep(0.4 if dist.get_rank() == 1 else 0.0)
                dist.all_reduce(torch.zeros(1))
            return own.take()

    waits, sleeps = run_ranks(go_in_step, 2)
    assert waits < sleeps / 2 and sleeps > 1.6, "of 2.4 seconds in which one rank sleeps and the other waits"


def judge(steps: list[tuple[float, ...]], imbalance: float = 1.0) -> list[Slow | None]:
    watch = SlowWatch()
    return [watch.judge(step, imbalance=imbalance) for step in steps]


def test_a_slow_rank_is_named_once_and_again_when_it_comes_back() -> None:
    even, slow = (1.0, 1.1, 0.9, 1.0), (1.0, 1.1, 1.8, 1.0)
    found = judge([slow] * STEPS + [slow] * 5)
    assert found[: STEPS - 1] == [None] * (STEPS - 1) and found[STEPS:] == [None] * 5
    assert found[STEPS - 1] is not None and found[STEPS - 1].rank == 2
    again = [each for each in judge([slow] * STEPS + [even] * STEPS + [slow] * STEPS) if each is not None]
    assert [each.rank for each in again] == [2, 2]


def test_what_is_no_slowness() -> None:
    assert not any(judge([(1.0, 1.3)] * 40)), "a third more is no reason to wake anybody"
    assert not any(judge([(1.0, 2.0)] * 40, imbalance=1.5)), "it was given more to do"
    assert not any(judge([(1.0, 1.0), (1.0, 9.0)] * 20)), "now and then is not always"
    assert not any(judge([(0.001, 0.004)] * 40)), "too short to be measured so"
    assert not any(judge([(5.0,)] * 40)), "nobody waits for a single rank"
    assert judge([(1.0, 2.0)] * STEPS)[-1] == Slow(1, 2.0)
