"""Intervals hold what they promise, by simulation: few documents, unlike lengths, answers that hang together."""

from collections.abc import Callable

import numpy as np
import pytest

from ropewalk.core.record import Score
from ropewalk.evaluate.ruler_suite import summarize_ruler
from ropewalk.evaluate.score import design_effect, mean_of, ratio, wilson_of_prompts
from ropewalk.evaluate.student_t import standard_errors, within

TRIES = 2000
Lengths = Callable[[np.random.Generator, int], np.ndarray]
LENGTHS: dict[str, Lengths] = {
    "equal": lambda random, count: np.full(count, 500.0),
    "unlike": lambda random, count: random.integers(200, 4000, count).astype(float),
    "a book among notes": lambda random, count: np.exp(random.normal(7, 1.2, count)),
}


@pytest.mark.parametrize(
    ("freedom", "errors"),
    [  # the 0.975 column of any printed table of Student's distribution
        (1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (5, 2.571), (6, 2.447), (7, 2.365), (8, 2.306), (9, 2.262),
        (10, 2.228), (15, 2.131), (20, 2.086), (30, 2.042), (40, 2.021), (60, 2.000), (120, 1.980), (10**9, 1.960),
    ],
)  # fmt: skip
def test_student_meets_the_printed_table(freedom: int, errors: float) -> None:
    assert standard_errors(freedom) == pytest.approx(errors, abs=5e-4)


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 7, 50, 999, 1000])
def test_the_sum_is_the_integral_of_the_density(freedom: int) -> None:
    grid = np.linspace(0, 2.5, 400_001)
    density = (1 + grid**2 / freedom) ** (-(freedom + 1) / 2)
    tail = np.linspace(0, np.pi / 2, 400_001)[1:-1]  # x = tan, so that the whole line has an end
    whole = np.trapezoid((1 + np.tan(tail) ** 2 / freedom) ** (-(freedom + 1) / 2) / np.cos(tail) ** 2, tail)
    assert within(2.5, freedom) == pytest.approx(np.trapezoid(density, grid) / whole, abs=1e-5)


def test_the_series_goes_on_where_the_sum_ends() -> None:
    assert 0 < standard_errors(1000) - standard_errors(1001) < 5e-6


@pytest.mark.parametrize("documents", [2, 3, 5, 20])
@pytest.mark.parametrize("lengths", LENGTHS)
def test_losses_of_few_documents(documents: int, lengths: str) -> None:
    """Normal losses per document; two documents and a normal quantile would hold in 62 %."""
    random, held = np.random.default_rng(documents), 0
    for _ in range(TRIES):
        count = LENGTHS[lengths](random, documents)
        _, low, high = ratio(random.normal(3, 0.5, documents) * count, count).interval
        held += low <= 3 <= high
    assert 0.935 < held / TRIES < 0.975


def test_the_mean_of_sources_of_few_documents() -> None:
    random, held = np.random.default_rng(7), 0
    for _ in range(TRIES):
        parts = [ratio(random.normal(1, spread, n), np.ones(n)) for n, spread in ((2, 0.1), (12, 0.3), (20, 0.2))]
        _, low, high = mean_of(parts).interval
        held += low <= 1 <= high
    assert 0.935 < held / TRIES < 0.985


@pytest.mark.parametrize("prompts", [6, 30, 170])
@pytest.mark.parametrize("share", [0.46, 0.92])
def test_answers_of_one_prompt_are_right_together(prompts: int, share: float) -> None:
    """Beta-binomial prompts of 4 to 8 answers with an intra-class correlation of 0.2, as retrieval has them."""
    random, alike, held = np.random.default_rng(prompts), 0.2, 0
    for _ in range(TRIES):
        count = random.integers(4, 9, prompts)
        each = random.beta(share * (1 - alike) / alike, (1 - share) * (1 - alike) / alike, prompts)
        correct = random.binomial(count, each)
        _, low, high = wilson_of_prompts(correct.astype(float), count.astype(float))
        held += low <= share <= high
    assert held / TRIES >= 0.93


def test_prompts_whose_answers_agree_widen_the_interval() -> None:
    alone = wilson_of_prompts(np.array([1.0] * 81 + [0.0] * 182), np.ones(263))
    together = wilson_of_prompts(np.array([40.0, 0.0, 41.0, 0.0]), np.array([66.0, 66.0, 66.0, 65.0]))
    assert together[0] == alone[0] and alone[2] - alone[1] < 0.2 and together[2] - together[1] > 0.5
    one = wilson_of_prompts(np.array([6.0, 0.0]), np.array([8.0, 0.0]))
    assert one[0] == 0.75 and one[2] - one[1] > 0.6  # one prompt says hardly more than one answer


SHARES = {
    "unlike": [1, 1, 0.99, 0.98, 0.95, 0.9, 0.85, 0.8, 0.6, 0.5, 0.3, 0.9, 0.97],
    "near 1": [0.97] * 13,
    "middle": [0.5] * 13,
}
REFERENCES = [1, 1, 1, 1, 1, 1, 4, 4, 5, 10, 3, 1, 1]


@pytest.mark.parametrize("shares", SHARES)
def test_the_mean_over_tasks_of_unlike_difficulty(shares: str) -> None:
    """RULER's 13 tasks with 100 prompts each: 95 %, where half-widths of the tasks' own intervals held 96.5 %."""
    truth, prompts, held, width = np.array(SHARES[shares]), 100, 0, 0.0
    random = np.random.default_rng(3)
    right = [random.binomial(own, p, (TRIES, prompts)) for p, own in zip(truth, REFERENCES, strict=True)]
    for number in range(TRIES):
        scores = []
        for matched, own in zip(right, REFERENCES, strict=True):
            correct, count = matched[number].astype(float), np.full(prompts, float(own))
            share, effect = float(correct.sum() / count.sum()), design_effect(correct, count)
            scores.append(Score("m", "ruler/x", "s", 1, None, "en", own * prompts, share, 0, 1, prompts, effect))
        mean, _ = summarize_ruler(scores, model="m", threshold=0.9)
        held += mean.low <= truth.mean() <= mean.high
        width += (mean.high - mean.low) / TRIES
    assert 0.935 <= held / TRIES <= 0.965
    spread = np.sqrt((truth * (1 - truth) / np.array(REFERENCES)).sum() / prompts) / len(truth)
    assert width == pytest.approx(2 * 1.96 * spread, rel=0.03)


def test_a_mean_over_few_prompts_is_not_too_sure() -> None:
    """Five prompts of each task held 89 % where two of three answers stood near the middle; all right says little."""
    random, held = np.random.default_rng(4), 0
    count = np.ones(5)
    for _ in range(TRIES):
        rows = random.binomial(1, 0.5, (13, 5)).astype(float)
        scores = [Score("m", "ruler/x", "s", 1, None, "en", 5, float(row.mean()), 0, 1, 5, 1.0) for row in rows]
        mean, _ = summarize_ruler(scores, model="m", threshold=0.9)
        held += mean.low <= 0.5 <= mean.high
    assert 0.935 <= held / TRIES <= 0.98
    perfect = [Score("m", "ruler/x", "s", 1, None, "en", 5, 1.0, 0, 1, 5, design_effect(count, count))] * 13
    mean, _ = summarize_ruler(perfect, model="m", threshold=0.9)
    assert mean.high == 1 and 0.92 < mean.low < 0.96, "the truth may be 1 - 3 / 65"
