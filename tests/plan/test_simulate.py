"""The simulation against closed forms: Daly's mean time, the best interval of saves, and a published run."""

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from ropewalk.plan.flops import count_pair_flops, token_flops
from ropewalk.plan.forecast import forecast
from ropewalk.plan.simulate import Cluster, Steps, expect_growth, simulate_plan, simulate_run, weigh_sequences
from ropewalk.rope.layers import LayerPosition
from ropewalk.shape.model_shape import ModelShape

BUSY = Cluster(ranks=4096, failure_hours=8192, restart_seconds=300, save_seconds=60)
"""A failure every two hours."""


def simulate_mean(steps: Steps, cluster: Cluster, save_steps: int, *, runs: int) -> float:
    found = [simulate_run(steps, cluster, save_steps=save_steps, seed=seed).seconds for seed in range(runs)]
    return float(np.mean(found))


def expect_seconds(steps: Steps, cluster: Cluster, *, save_seconds_apart: float) -> float:
    """The mean wall time without slow ranks and unequal work, by Daly's formula (2006) for exponential failures."""
    mean, restart = cluster.failure_seconds, cluster.restart_seconds
    part = save_seconds_apart + cluster.save_seconds
    saves = steps.count * steps.seconds / save_seconds_apart
    return saves * (mean + restart) * math.expm1(part / mean)


def test_without_events_a_run_takes_its_steps_and_saves() -> None:
    calm = Cluster(ranks=8, failure_hours=1e12, save_seconds=5)
    found = simulate_run(Steps(100, 2.0), calm, save_steps=10)
    assert (found.seconds, found.saving_seconds, found.failures, found.lost_seconds) == (250.0, 50.0, 0, 0.0)
    assert found.effective_share == 0.8


@pytest.mark.parametrize("save_steps", [4, 10, 40])
def test_the_mean_time_is_dalys(save_steps: int) -> None:
    steps = Steps(20_000, 100.0)
    expected = expect_seconds(steps, BUSY, save_seconds_apart=save_steps * steps.seconds)
    assert simulate_mean(steps, BUSY, save_steps, runs=4) == pytest.approx(expected, rel=0.02)


def test_the_best_interval_is_young_and_dalys() -> None:
    """No other interval is better by more than 2 % of the time, and one far from it is worse."""
    steps = Steps(20_000, 50.0)
    best = round(BUSY.best_save_seconds / steps.seconds)
    assert BUSY.best_save_seconds == pytest.approx(math.sqrt(2 * 60 * 7200) - 60)
    times = {
        each: simulate_mean(steps, BUSY, each, runs=3) for each in (best // 4, best // 2, best, 2 * best, 5 * best)
    }
    assert times[best] <= 1.02 * min(times.values())
    assert times[best // 4] > 1.05 * times[best] < times[5 * best]


def test_a_step_is_as_slow_as_its_slowest_rank() -> None:
    """Of 512 data ranks one nearly always has the longest of ten kinds of sequences."""
    calm = Cluster(ranks=4096, failure_hours=1e12, save_seconds=0)
    work = tuple(float(each) for each in range(1, 11))
    alone, many = (
        simulate_run(Steps(200, 1.0, data_ranks=ranks, work=work), calm, save_steps=50).seconds / 200
        for ranks in (1, 512)
    )
    assert alone == pytest.approx(1.0, rel=0.1) and many == pytest.approx(10 / 5.5, rel=0.01)
    evened = simulate_run(Steps(200, 1.0, data_ranks=512, sequences=16, work=work), calm, save_steps=50).seconds / 200
    assert evened < 1.05, "sixteen sequences a rank are dealt out evenly"


def test_slow_ranks_slow_all() -> None:
    """With a slow rank half of the time, steps take 1.15 times as long."""
    cluster = Cluster(ranks=1000, failure_hours=1e12, save_seconds=0, slow_hours=2885.4, slow_lasts_hours=2.0)
    found = simulate_run(Steps(40_000, 20.0), cluster, save_steps=100)
    share = 1 - math.exp(-1000 * 2.0 / 2885.4)  # at least one slow rank of those that come and go independently
    assert found.seconds / found.ideal_seconds == pytest.approx(1 + 0.3 * share, rel=0.03)


def test_llama_3s_run_has_its_interruptions_and_its_effective_time() -> None:
    """54 days on 16,384 GPUs with 419 unexpected interruptions, more than 90 % of the time effective (2407.21783)."""
    cluster = Cluster(ranks=16_384)
    days = 54 * 86_400
    steps = Steps(round(0.92 * days / 30), 30.0)
    save_steps = round(cluster.best_save_seconds / 30)
    runs = [simulate_run(steps, cluster, save_steps=save_steps, seed=seed) for seed in range(2)]
    assert np.mean([run.failures * days / run.seconds for run in runs]) == pytest.approx(419, rel=0.1)
    assert all(0.90 < run.effective_share < 0.93 for run in runs)


def test_work_is_by_tokens_and_by_the_pairs_of_each_window() -> None:
    whole, halves = weigh_sequences([[8], [4, 4]], linear_flops=1.0, pair_flops={None: 2.0})
    assert whole / halves == pytest.approx((8 + 2 * 36) / (8 + 2 * 20)) and whole + halves == pytest.approx(2)
    seen = sum(min(token, 3) for token in range(1, 9)), 2 * sum(min(token, 3) for token in range(1, 5))
    whole, halves = weigh_sequences([[8], [4, 4]], linear_flops=1.0, pair_flops={None: 2.0, 3: 5.0})
    assert whole / halves == pytest.approx((8 + 2 * 36 + 5 * seen[0]) / (8 + 2 * 20 + 5 * seen[1]))


def test_flops_of_pairs_are_those_of_the_plan(shapes: Mapping[str, ModelShape]) -> None:
    """Three layers with a window to a full one: weighed as full pairs, a whole document would be four times as dear."""
    shape = shapes["llama-1b"]
    layers = [replace_window(layer, 512 if index % 4 else None) for index, layer in enumerate(shape.positions)]
    mixed = replace(shape, positions=tuple(layers))
    pair_flops = count_pair_flops(mixed)
    assert pair_flops.keys() == {None, 512} and pair_flops[512] == 3 * pair_flops[None]
    rows = [[8192], [100] * 80 + [192]]
    flops = [token_flops(mixed, 8192, document_tokens=row) for row in rows]
    found = weigh_sequences(rows, linear_flops=flops[0].linear, pair_flops=pair_flops)
    assert found[0] / found[1] == pytest.approx(
        (flops[0].linear + flops[0].attention) / (flops[1].linear + flops[1].attention)
    )


def replace_window(layer: LayerPosition, window: int | None) -> LayerPosition:
    return layer.model_copy(update={"window_tokens": window})


def test_a_run_that_failures_hold_up_for_ever_is_told_and_not_simulated(shapes: Mapping[str, ModelShape]) -> None:
    """4,096 ranks fail every twelve hours: saves four days apart are never reached."""
    plan = forecast(shapes["llama-8b"], context_tokens=1 << 17, tokens=10**13, step_tokens=1 << 29, ranks=4096)
    far = round(4 * 86_400 / plan.step_seconds)
    told = simulate_plan(plan, save_steps=far)
    assert told.startswith("failures hold it up for more than 20 times its own time: one comes every 12 h 22 min")
    assert "4 d 0 h" in told and "the best by Young and Daly" in told
    hopeless = simulate_plan(plan, save_steps=far, cluster=Cluster(plan.ranks, failure_hours=1.0))
    assert "Young" not in hopeless, "a step alone is longer than the time between two failures"
    assert "effective, saved every" in simulate_plan(plan, save_steps=10)
    steps = Steps(20_000, 100.0)
    for apart in (4, 40):
        expected = expect_seconds(steps, BUSY, save_seconds_apart=apart * 100.0) / (20_000 * 100.0)
        assert expect_growth(steps, BUSY, apart) == pytest.approx(expected)
