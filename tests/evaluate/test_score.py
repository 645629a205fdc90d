"""Intervals against published values, textbook formulas, and how often they hold."""

import math

import numpy as np
import pytest

from ropewalk.evaluate.score import difference, mean, ratio, wilson


@pytest.mark.parametrize(
    ("correct", "count", "low", "high"),
    [  # Newcombe 1998, table I, the score method without continuity correction
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_meets_published_intervals(correct: int, count: int, low: float, high: float) -> None:
    value, found_low, found_high = wilson(correct, count)
    assert value == correct / count
    assert (found_low, found_high) == pytest.approx((low, high), abs=5e-5)
    _, mirrored_low, mirrored_high = wilson(count - correct, count)
    assert (1 - mirrored_high, 1 - mirrored_low) == pytest.approx((found_low, found_high))


def test_wilson_stays_inside_and_around_its_value() -> None:
    for count in (1, 7, 1000):
        for correct in (0, 1, count):
            value, low, high = wilson(correct, count)
            assert 0 <= low <= value <= high <= 1


def test_a_ratio_of_equal_counts_is_a_mean_with_its_textbook_interval() -> None:
    values = np.random.default_rng(0).normal(3, 1, size=40)
    value, low, high = ratio(values * 5, np.full(40, 5.0))
    half = 1.959964 * values.std(ddof=1) / math.sqrt(40)
    assert (value, low, high) == pytest.approx((values.mean(), values.mean() - half, values.mean() + half))


def test_a_ratio_weighs_by_count() -> None:
    assert ratio(np.array([2.0, 30.0]), np.array([1.0, 10.0]))[0] == pytest.approx(32 / 11)


def test_a_difference_is_taken_in_pairs() -> None:
    random = np.random.default_rng(1)
    hard = random.normal(3, 2, size=50)  # documents differ much, and in the same way at both places
    near, far = hard + random.normal(0, 0.1, size=50), hard + 0.2 + random.normal(0, 0.1, size=50)
    count = np.full(50, 128.0)
    value, low, high = difference((far * 128, count), (near * 128, count))
    apart = far - near
    half = 1.959964 * apart.std(ddof=1) / math.sqrt(50)
    assert (value, low, high) == pytest.approx((apart.mean(), apart.mean() - half, apart.mean() + half))
    assert high - low < 0.1 * (ratio(far * 128, count)[2] - ratio(far * 128, count)[1])


def test_intervals_hold_as_often_as_they_say() -> None:
    """Documents of unlike lengths, 60 of them, 2,000 times: 95 % of intervals hold the true ratio."""
    random = np.random.default_rng(2)
    held = 0
    for _ in range(2000):
        count = random.integers(20, 400, size=60).astype(float)
        loss = random.normal(2.5 - 0.1 * (count > 200), 0.4)  # long documents are easier
        _, low, high = ratio(loss * count, count)
        lengths = np.arange(20, 400)
        true = float(((2.5 - 0.1 * (lengths > 200)) * lengths).sum() / lengths.sum())
        held += low <= true <= high
    assert held / 2000 == pytest.approx(0.95, abs=0.02)


def test_one_document_says_nothing_about_the_spread() -> None:
    value, low, high = ratio(np.array([0.0, 6.0]), np.array([0.0, 2.0]))
    assert value == 3 and low == -math.inf and high == math.inf


@pytest.mark.parametrize("count", range(2, 16))
def test_a_mean_over_repeats_has_the_interval_of_the_density_that_student_gave(count: int) -> None:
    """The half width in standard errors is where the integral of Student's density, done by hand, has its 97.5 %."""
    values = np.random.default_rng(count).normal(size=count)
    value, low, high = mean(values.tolist())
    error = values.std(ddof=1) / math.sqrt(count)
    assert (value, value - low) == pytest.approx((values.mean(), high - value))
    freedom = count - 1
    grid = np.linspace(0, (high - value) / error, 200_001)
    density = (1 + grid**2 / freedom) ** (-(freedom + 1) / 2)
    density *= math.gamma((freedom + 1) / 2) / math.gamma(freedom / 2) / math.sqrt(freedom * math.pi)
    assert 0.5 + np.trapezoid(density, grid) == pytest.approx(0.975, abs=2e-6)


def test_a_single_repeat_says_nothing_of_its_spread_and_too_many_are_refused() -> None:
    assert mean([0.5]) == (0.5, -math.inf, math.inf)
    with pytest.raises(ValueError, match="16 repeats"):
        mean([0.5] * 16)
