"""Intervals against published values, textbook formulas, and how often they hold."""

import math

import numpy as np
import pytest

from ropewalk.evaluate.score import Estimate, difference, mean, mean_of, ratio, wilson_of_prompts


def wilson(correct: int, count: int) -> tuple[float, float, float]:
    """The interval where each answer has a prompt of its own, so that all are independent."""
    return wilson_of_prompts(np.repeat([1.0, 0.0], [correct, count - correct]), np.ones(count))


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
    value, low, high = ratio(values * 5, np.full(40, 5.0)).interval
    half = 2.022691 * values.std(ddof=1) / math.sqrt(40)
    assert (value, low, high) == pytest.approx((values.mean(), values.mean() - half, values.mean() + half))


def test_a_ratio_weighs_by_count() -> None:
    assert ratio(np.array([2.0, 30.0]), np.array([1.0, 10.0])).value == pytest.approx(32 / 11)


def test_a_difference_is_taken_in_pairs() -> None:
    random = np.random.default_rng(1)
    hard = random.normal(3, 2, size=50)  # documents differ much, and in the same way at both places
    near, far = hard + random.normal(0, 0.1, size=50), hard + 0.2 + random.normal(0, 0.1, size=50)
    count = np.full(50, 128.0)
    found = difference((far * 128, count), (near * 128, count))
    value, low, high = found.interval
    apart = far - near
    half = 2.009575 * apart.std(ddof=1) / math.sqrt(50)
    assert (value, low, high) == pytest.approx((apart.mean(), apart.mean() - half, apart.mean() + half))
    assert found.samples == 50 and found.error < 0.1 * ratio(far * 128, count).error


def test_intervals_hold_as_often_as_they_say() -> None:
    """Documents of unlike lengths, 60 of them, 2,000 times: 95 % of intervals hold the true ratio."""
    random = np.random.default_rng(2)
    held = 0
    for _ in range(2000):
        count = random.integers(20, 400, size=60).astype(float)
        loss = random.normal(2.5 - 0.1 * (count > 200), 0.4)  # long documents are easier
        _, low, high = ratio(loss * count, count).interval
        lengths = np.arange(20, 400)
        true = float(((2.5 - 0.1 * (lengths > 200)) * lengths).sum() / lengths.sum())
        held += low <= true <= high
    assert held / 2000 == pytest.approx(0.95, abs=0.02)


def test_one_document_says_nothing_about_the_spread() -> None:
    found = ratio(np.array([0.0, 6.0]), np.array([0.0, 2.0]))
    assert found.interval == (3, -math.inf, math.inf) and found.samples == 1
    far, near = (np.array([3.0, 4.0]), np.array([1.0, 1.0])), (np.array([2.0, 0.0]), np.array([1.0, 0.0]))
    assert difference(far, near).interval == (1.5, -math.inf, math.inf)  # all of the second ratio is one document's


def test_a_long_document_beside_short_ones_is_hardly_more_than_one_sample() -> None:
    alike = ratio(np.array([3.0, 4, 5, 3, 4]), np.ones(5))
    book = ratio(np.array([300.0, 4, 5, 3, 4]), np.array([100.0, 1, 1, 1, 1]))
    assert (alike.freedom, book.freedom, book.samples) == (4, 1, 5)


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


def test_a_single_repeat_says_nothing_of_its_spread_and_no_number_of_them_is_too_many() -> None:
    assert mean([0.5]) == (0.5, -math.inf, math.inf)
    _, low, high = mean([0.0, 1.0] * 500)
    assert (high - low) / 2 == pytest.approx(1.962341 * math.sqrt(1000 / 4 / 999 / 1000))


def test_the_mean_of_sources_is_as_sure_as_its_parts() -> None:
    parts = [Estimate(1.0, 0.3, 4, 5), Estimate(3.0, 0.4, 9, 10)]
    both = mean_of(parts)
    assert (both.value, both.error, both.samples) == (2.0, pytest.approx(0.25), 15)
    assert both.freedom == int(0.25**2 / (0.09**2 / 4 + 0.16**2 / 9))  # Welch's formula by hand
    assert mean_of([*parts, Estimate(2.0, math.inf, 1, 1)]).interval[1:] == (-math.inf, math.inf)
    assert mean_of([Estimate(0.0, 0.0, 3, 4)]).interval == (0, 0, 0)


def test_a_mean_of_one_estimate_keeps_its_degrees_of_freedom() -> None:
    """Welch's formula gives them back exactly, but for rounding, which must not take one away."""
    draw = np.random.default_rng(0)
    for freedom in range(1, 60):
        for error in draw.random(50).tolist():
            one = Estimate(0.0, error, freedom, freedom + 1)
            assert mean_of([one]).freedom == freedom and mean_of([one, one]).freedom == 2 * freedom
