"""Frequencies against figures that were computed elsewhere."""

import math

import numpy as np
import pytest

from ropewalk.rope.frequency import (
    count_whole_turns,
    index_ramp,
    ntk_theta,
    plain_inv_freq,
    turning_pair,
    wavelengths,
)


def test_plain_frequencies_of_llama_2() -> None:
    inv_freq = plain_inv_freq(1e4, 128)
    assert inv_freq.shape == (64,)
    assert inv_freq[[0, 1, 16, 32]] == pytest.approx([1.0, 0.8659643233601, 0.1, 0.01], rel=1e-12)


def test_longest_wavelengths() -> None:
    longest = [wavelengths(plain_inv_freq(theta, 128))[-1] for theta in (1e4, 5e5, 1e6, 8e6)]
    assert longest == pytest.approx([54_410, 2_559_196, 5_063_256, 39_211_104], rel=1e-5)
    assert wavelengths(np.zeros(1)) == [math.inf]


@pytest.mark.parametrize(
    ("theta", "pairs"), [(1e4, [46, 55, 60, 64, 64]), (5e5, [32, 39, 42, 46, 49]), (1e6, [31, 37, 40, 43, 47])]
)
def test_pairs_that_turn_whole(theta: float, pairs: list[int]) -> None:
    lengths = (4096, 16384, 32768, 65536, 131072)
    assert [count_whole_turns(plain_inv_freq(theta, 128), length) for length in lengths] == pairs


@pytest.mark.parametrize(
    ("theta", "head_dim", "factor", "expected"),
    [
        (1e4, 128, 2.0, 20_221.26),
        (1e4, 128, 4.0, 40_889.94),
        (1e4, 128, 8.0, 82_684.62),
        (1e4, 128, 16.0, 167_198.74),
        (1e4, 128, 32.0, 338_096.95),
        (5e5, 128, 4.0, 2_044_497),
        (5e5, 128, 8.0, 4_134_231),
        (1e4, 64, 4.0, 41_829.37),
        (1e4, 64, 8.0, 85_550.38),
    ],
)
def test_ntk_theta(theta: float, head_dim: int, factor: float, expected: float) -> None:
    assert ntk_theta(theta, head_dim, factor) == pytest.approx(expected, rel=1e-6)
    lowest = plain_inv_freq(theta, head_dim)[-1] / plain_inv_freq(ntk_theta(theta, head_dim, factor), head_dim)[-1]
    assert lowest == pytest.approx(factor)


@pytest.mark.parametrize(
    ("head_dim", "theta", "context", "fast", "slow"),
    [
        (128, 1e4, 2048, 16.1280, 40.2104),
        (128, 1e4, 4096, 20.9445, 45.0269),
        (128, 5e5, 8192, 18.0811, 34.9841),
        (128, 1e6, 32768, 23.5959, 39.6509),
        (64, 1e4, 4096, 10.4722, 22.5134),
        (256, 1e6, 32768, 47.1919, 79.3018),
        (16, 1e4, 128, -0.392, 2.618),
    ],
)
def test_turning_pair(head_dim: int, theta: float, context: int, fast: float, slow: float) -> None:
    found = [turning_pair(turns, theta=theta, head_dim=head_dim, context_tokens=context) for turns in (32.0, 1.0)]
    assert found == pytest.approx([fast, slow], abs=6e-4)


def test_index_ramp() -> None:
    assert index_ramp(1.0, 3.0, 5).tolist() == [0, 0, 0.5, 1, 1]
    assert index_ramp(2.0, 2.0, 4).tolist() == [0, 0, 0, 1], "an empty ramp is a step"
