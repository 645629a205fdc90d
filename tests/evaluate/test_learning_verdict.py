"""The verdict on learning: seeded runs of known trend and noise are judged as they were made."""

import numpy as np
import pytest

from ropewalk.core.error import UserError
from ropewalk.core.seed import stream
from ropewalk.evaluate.learning_verdict import judge_learning


def judge_runs(trend: float, noise: float, *, checkpoints: int, margin: float = 0.02) -> list[str]:
    found = []
    for seed in range(200):
        rng = stream("verdict", seed)
        values = 0.5 + trend * np.linspace(0, 1, checkpoints) + noise * rng.standard_normal(checkpoints)
        found.append(judge_learning(values.tolist(), margin=margin).state)
    return found


def test_a_clear_gain_is_still_learning() -> None:
    assert judge_runs(0.1, 0.005, checkpoints=6).count("still learning") >= 195


def test_noise_alone_is_rarely_taken_for_learning() -> None:
    """One-sided, so 2.5 % of 200 runs; and a measure without noise and trend is saturated in nearly all."""
    assert judge_runs(0.0, 0.05, checkpoints=6).count("still learning") <= 12
    assert judge_runs(0.0, 0.002, checkpoints=6).count("saturated") >= 185


def test_a_gain_below_the_noise_is_neither() -> None:
    states = judge_runs(0.03, 0.05, checkpoints=5)
    assert states.count("within noise") >= 150 and states.count("saturated") <= 20


def test_seeds_that_differ_more_than_checkpoints_set_the_noise() -> None:
    values = [0.50, 0.52, 0.54, 0.56]
    assert judge_learning([*values[:3], 0.561], margin=0.02).state == "still learning"
    twins = judge_learning([*values[:3], 0.561], margin=0.02, seeds=[0.4, 0.6, 0.5])
    assert twins.state == "within noise" and twins.noise == pytest.approx(0.1) and "of seeds" in twins.text


def test_a_loss_that_falls_is_a_gain() -> None:
    verdict = judge_learning([2.0, 1.9, 1.81, 1.7], margin=0.01, lower_is_better=True)
    assert verdict.state == "still learning" and verdict.change[0] == pytest.approx(0.3, abs=0.02)
    assert judge_learning([2.0, 1.9, 1.81, 1.7], margin=0.01).state == "saturated"


def test_too_few_checkpoints_are_refused() -> None:
    with pytest.raises(UserError, match="3 checkpoints"):
        judge_learning([1, 2, 3], margin=0.1)
