"""The search for factors against a score whose best factors are known."""

import math

import numpy as np
import pytest
from pydantic import ValidationError

from ropewalk.rope.longrope_search import Factors, Search, search_factors, seed_factors
from ropewalk.rope.method import BaseRope

BASE = BaseRope(theta=1e4, head_dim=128, context_tokens=4096)
OPTIMUM = 1 + 16.6 / (1 + np.exp(-(np.arange(64) - 30) / 4))


def distance(factors: Factors) -> float:
    """Mean squared error of log factors from an S-shaped optimum between the seeds."""
    return float(np.mean((np.log(factors) - np.log(OPTIMUM)) ** 2))


@pytest.mark.parametrize("seed", range(3))
def test_a_small_budget_beats_every_seed(seed: int) -> None:
    search = Search(seed=seed)
    found = search_factors(distance, base=BASE, context_tokens=65536, search=search)
    assert found.score == distance(found.factors) < 0.5 * min(found.seed_scores.values())
    assert found.evaluations <= search.evaluations == 112
    assert list(found.best_scores) == sorted(found.best_scores, reverse=True) and found.best_scores[-1] == found.score


def test_the_budget_of_the_paper_comes_close() -> None:
    search = Search(population=64, iterations=40, mutations=16, crossovers=16, parents=32)
    found = search_factors(distance, base=BASE, context_tokens=65536, search=search)
    assert found.score < 0.15 * min(found.seed_scores.values())


def test_every_candidate_keeps_the_rules_and_is_asked_once() -> None:
    asked: list[Factors] = []

    def note(factors: Factors) -> float:
        asked.append(factors)
        return distance(factors)

    found = search_factors(note, base=BASE, context_tokens=65536, search=Search())
    assert len(asked) == len(set(asked)) == found.evaluations
    for factors in asked:
        assert list(factors) == sorted(factors)
        assert factors[0] >= 1 and factors[-1] <= 1.25 * 16
        assert factors == tuple(round(factor, 2) for factor in factors)


def test_the_same_seed_finds_the_same() -> None:
    first, second, other = (
        search_factors(distance, base=BASE, context_tokens=65536, search=Search(seed=seed)).factors
        for seed in (1, 1, 2)
    )
    assert first == second != other


def test_a_seed_that_numpy_refuses_is_refused_where_a_recipe_is_read() -> None:
    """It would end a run after the base is loaded."""
    with pytest.raises(ValidationError, match="seed"):
        Search(seed=-1)


def test_a_score_that_fails_is_the_worst() -> None:
    def broken(factors: Factors) -> float:
        return math.nan if factors[0] > 1 else distance(factors)

    found = search_factors(broken, base=BASE, context_tokens=65536, search=Search())
    assert found.factors[0] == 1
    assert found.seed_scores["linear"] == math.inf


def test_seeds_are_the_known_methods() -> None:
    seeds = seed_factors(BASE, 16384)
    assert seeds["linear"] == (4.0,) * 64
    assert (seeds["ntk"][0], seeds["ntk"][-1]) == (1, 4)
    assert seeds["yarn"][:21] == pytest.approx([1.0] * 21) and seeds["yarn"][46:] == pytest.approx([4.0] * 18)
