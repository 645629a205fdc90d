"""Both bounds against their published figures, and the search against plain evaluation."""

from itertools import pairwise

import numpy as np
import pytest

from ropewalk.rope.bounds import (
    attraction,
    critical_dim,
    first_negative,
    least_theta,
    reach,
    similarity,
    suggest_theta,
    theta_for_reach,
)
from ropewalk.rope.frequency import plain_inv_freq


@pytest.mark.parametrize(
    ("theta", "head_dim", "expected"),
    [
        (500.0, 128, 171),
        (1e4, 128, 1707),
        (2e4, 128, 2666),
        (1e5, 128, 7757),
        (5e5, 128, 18_438),
        (1e6, 128, 27_115),
        (5e6, 128, 82_999),
        (8e6, 128, 61_936),
        (1e4, 64, 725),
        (5e5, 64, 9937),
        (5e5, 256, 37_791),
    ],
)
def test_first_negative_distance(theta: float, head_dim: int, expected: int) -> None:
    inv_freq = plain_inv_freq(theta, head_dim)
    assert first_negative(inv_freq, 100_000) == expected
    assert first_negative(inv_freq, expected) is None
    around = similarity(inv_freq, np.arange(expected - 1, expected + 1))
    assert around[0] >= 0 > around[1]


@pytest.mark.parametrize(
    ("context", "ours", "published"), [(1024, 4294, 4.3e3), (2048, 11_588, 1.2e4), (4096, 26_953, 2.7e4)]
)
def test_least_theta(context: int, ours: float, published: float) -> None:
    found = least_theta(128, context)
    assert found == pytest.approx(ours, rel=2e-4)
    assert found == pytest.approx(published, rel=0.05)
    assert first_negative(plain_inv_freq(found, 128), context) is None
    assert first_negative(plain_inv_freq(found * 0.999, 128), context) is not None


@pytest.mark.parametrize(
    ("theta", "head_dim", "train_tokens", "expected"),
    [(1e4, 128, 4096, 92), (1e4, 128, 2048, 82), (1e4, 96, 2048, 62), (5e5, 128, 8192, 70), (1e6, 128, 32768, 80)],
)
def test_critical_dimension(theta: float, head_dim: int, train_tokens: int, expected: int) -> None:
    assert critical_dim(theta, head_dim=head_dim, train_tokens=train_tokens) == expected


def test_a_short_wavelength_model_knows_all_dimensions() -> None:
    assert critical_dim(500.0, head_dim=32, train_tokens=65536) == 32


def test_reach_of_llama_2() -> None:
    found = [reach(theta, known_dim=92, head_dim=128) for theta in (2e4, 1e5, 5e5, 1e6, 1e7)]
    assert found == pytest.approx([7_754, 24_656, 78_400, 129_027, 675_196], rel=1e-4)
    least = [theta_for_reach(tokens, known_dim=92, head_dim=128) for tokens in (16384, 32768, 65536, 131072)]
    assert least == pytest.approx([56_628, 148_544, 389_653, 1_022_122], rel=1e-5)


def test_suggested_thetas_are_round_and_hold() -> None:
    for context_tokens, expected in ((16384, 5e5), (32768, 2e6), (65536, 5e6)):
        theta = suggest_theta(1e4, head_dim=128, train_tokens=4096, context_tokens=context_tokens)
        assert theta == expected
        assert first_negative(plain_inv_freq(theta, 128), context_tokens) is None
    found = suggest_theta(1e7, head_dim=128, train_tokens=8192, context_tokens=16384)
    assert found == 5e7, "a large theta knows few pairs at 8Ki"


def test_the_finer_search_of_su_is_met_up_to_128ki() -> None:
    found = [least_theta(128, tokens) for tokens in (8192, 16384, 32768)]
    assert found == pytest.approx([83_768, 231_665, 629_997], rel=2e-4)
    assert first_negative(plain_inv_freq(4.8697e6, 128), 131072) is None
    assert first_negative(plain_inv_freq(4.8697e6 * 0.999, 128), 131072) is not None


def test_the_block_product_is_the_sum_of_cosines() -> None:
    inv_freq = plain_inv_freq(5e5, 128)
    edges = np.array([5, 6, 40, 1029, 3000, 70_001])
    slow = [similarity(inv_freq, np.arange(begin, end)).mean() / 64 for begin, end in pairwise(edges)]
    assert attraction(inv_freq, edges) == pytest.approx(slow, abs=1e-9)


@pytest.mark.parametrize(
    ("theta", "head_dim", "factor", "expected"),  # at 1Ki, 4Ki, 16Ki, 64Ki and 100,000 tokens
    [
        (1e4, 1024, 1, (0.177, 0.050, -0.090, 0.002, 0.027)),  # as CodeLlama draws it: the model's width
        (1e6, 1024, 1, (0.460, 0.339, 0.249, 0.135, 0.145)),
        (1e4, 1024, 4, (0.335, 0.177, 0.050, -0.090, 0.012)),
        (1e4, 128, 1, (0.204, -0.053, -0.142, -0.008, 0.056)),
        (5e5, 128, 1, (0.479, 0.383, 0.133, 0.045, 0.002)),
        (1e6, 128, 1, (0.494, 0.278, 0.160, 0.093, 0.036)),
        (1e4, 128, 4, (0.321, 0.204, -0.053, -0.142, -0.098)),
    ],
)
def test_decay_of_attention(theta: float, head_dim: int, factor: float, expected: tuple[float, ...]) -> None:
    inv_freq = plain_inv_freq(theta, head_dim) / factor
    for tokens, value in zip((1024, 4096, 16384, 65536, 100_000), expected, strict=True):
        assert attraction(inv_freq, np.array([tokens, tokens + 1]))[0] == pytest.approx(value, abs=6e-4)


@pytest.mark.parametrize(
    ("theta", "expected"),
    [
        (1e4, (0.048, -0.017, -0.019, 0.007)),
        (5e5, (0.320, 0.194, 0.154, 0.098)),
        (1e6, (0.356, 0.283, 0.214, 0.086)),
        (8e6, (0.442, 0.366, 0.318, 0.243)),
    ],
)
def test_decay_of_attention_in_windows(theta: float, expected: tuple[float, ...]) -> None:
    windows = ((3000, 4000), (15_000, 16_000), (30_000, 32_000), (64_000, 65_000))
    found = [attraction(plain_inv_freq(theta, 128), np.array(window))[0] for window in windows]
    assert found == pytest.approx(expected, abs=2e-3)
