"""The search of LongRoPE: it finds one divisor per pair by evolution on the caller's score, within a counted budget.

As in 2402.13753 (section 3.3): the seeds are the factors of position interpolation, NTK and YaRN. Mutation and
crossover work on the best candidates, and factors never fall from a pair to the next slower one. The score is a
function, such as the loss at the target length, so this file needs no model. A tenth of the paper's budget is often
enough. On a problem with a known optimum, the default of 112 scores leaves about a third of the best seed's squared
error in log factors; the paper's 1,344 scores leave a twelfth.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from jaxtyping import Float64
from pydantic import Field, model_validator

from ropewalk.core.quantity import Count, PositiveCount
from ropewalk.core.spec import Spec
from ropewalk.rope.frequency import plain_inv_freq
from ropewalk.rope.method import BaseRope
from ropewalk.rope.yarn import Yarn

Factors = tuple[float, ...]
Breed = Callable[[list[Factors], np.random.Generator], Float64[np.ndarray, "half"]]

_STEP = 0.01  # grid of factors, as in the paper
_SLACK = 1.25  # factors lie between 1 and this times the stretch, as in the paper's Table 4
_MUTATION_SHARE = 0.3  # share of a parent's pairs that a mutation changes, as in the paper's code
_MOST_TRIES = 20  # repeated draws while a child was scored before


class Search(Spec):
    """The budget of a search. The paper's, for 7B models: 64, 40, 16, 16, 32 on five documents."""

    population: Annotated[PositiveCount, Field(ge=3)] = 16
    """First generation: the three seeds, and mutations of them."""
    iterations: PositiveCount = 8
    """Generations after the first."""
    mutations: Count = 8
    """Children of a generation with some factors drawn anew."""
    crossovers: Count = 4
    """Children of a generation made of two parents."""
    parents: PositiveCount = 8
    """The best ever seen; children come from these."""
    documents: PositiveCount = 4
    """Documents of the target length, of those that are trained on, that a score is taken over."""
    seed: Count = 0
    """Draws the children."""

    @model_validator(mode="after")
    def _check_parents(self) -> "Search":
        if self.parents > self.population:
            raise ValueError(f"{self.parents} parents cannot be chosen from a population of {self.population}")
        if not self.mutations + self.crossovers:
            raise ValueError("without mutations and crossovers (0 + 0) there is no search")
        return self

    @property
    def evaluations(self) -> int:
        """The largest number of scores that the search takes."""
        return self.population + self.iterations * (self.mutations + self.crossovers)


@dataclass(frozen=True, slots=True)
class FoundFactors:
    """The best factors of a search, their score, the seeds' scores, and the best score after each generation."""

    factors: Factors
    score: float
    seed_scores: dict[str, float]
    best_scores: tuple[float, ...]
    evaluations: int


def search_factors(
    score: Callable[[Factors], float], *, base: BaseRope, context_tokens: int, search: Search
) -> FoundFactors:
    """The long factors with the lowest ``score`` found for stretching ``base`` to ``context_tokens``.

    Factors count from plain RoPE with the base's theta and context, also where the base runs another method.
    Deterministic: the same score, base and ``search`` find the same factors. ``score`` is called at most
    ``search.evaluations`` times and never twice for the same factors. A score that is not finite counts as worst.
    """
    random = np.random.default_rng(search.seed)
    most = _SLACK * context_tokens / base.context_tokens
    seeds = {name: _settle(np.array(factors), most) for name, factors in seed_factors(base, context_tokens).items()}
    scores: dict[Factors, float] = {}

    def rate(factors: Factors) -> None:
        value = float(score(factors))
        scores[factors] = value if np.isfinite(value) else float("inf")

    def breed(how: Breed, parents: list[Factors], children: int) -> None:
        for _ in range(children):
            tries = (_settle(how(parents, random), most) for _ in range(_MOST_TRIES))
            child = next((new for new in tries if new not in scores), None)
            if child is not None:
                rate(child)

    for factors in dict.fromkeys(seeds.values()):
        rate(factors)
    breed(_mutate, list(scores), search.population - len(scores))
    history = [min(scores.values())]
    for _ in range(search.iterations):
        parents = sorted(scores, key=scores.__getitem__)[: search.parents]
        breed(_mutate, parents, search.mutations)
        breed(_cross, parents, search.crossovers)
        history.append(min(scores.values()))
    best = min(scores, key=scores.__getitem__)
    return FoundFactors(
        factors=best,
        score=scores[best],
        seed_scores={name: scores[factors] for name, factors in seeds.items()},
        best_scores=tuple(history),
        evaluations=len(scores),
    )


def seed_factors(base: BaseRope, context_tokens: int) -> dict[str, Factors]:
    """The divisors of each pair in position interpolation, NTK-aware interpolation and YaRN."""
    stretch, half = context_tokens / base.context_tokens, base.head_dim // 2
    plain = plain_inv_freq(base.theta, base.head_dim)
    yarn = Yarn(theta=base.theta, factor=stretch, original_tokens=base.context_tokens)
    divisors = {
        "linear": np.full(half, stretch),
        "ntk": stretch ** (np.arange(half) / max(half - 1, 1)),
        "yarn": plain / yarn.inv_freq(base.theta, base.head_dim),
    }
    return {name: tuple(map(float, factors)) for name, factors in divisors.items()}


def _mutate(parents: list[Factors], random: np.random.Generator) -> Float64[np.ndarray, "half"]:
    """Move some pairs of a parent by between one percent and a half; the width of the steps is random as well."""
    parent = np.array(parents[random.integers(len(parents))])
    width = 0.5 * 10.0 ** -random.uniform(0, 2)
    moved = random.random(len(parent)) < _MUTATION_SHARE
    return np.asarray(parent * np.exp(moved * random.normal(0, width, len(parent))))


def _cross(parents: list[Factors], random: np.random.Generator) -> Float64[np.ndarray, "half"]:
    """Take each pair from one of two parents."""
    mother, father = (np.array(parents[random.integers(len(parents))]) for _ in range(2))
    return np.where(random.random(len(mother)) < 0.5, mother, father)


def _settle(factors: Float64[np.ndarray, "half"], most: float) -> Factors:
    """Round to the grid, clip between 1 and ``most``, and make the factors non-decreasing."""
    grid = np.round(np.clip(factors, 1.0, most) / _STEP) * _STEP
    return tuple(round(float(factor), 2) for factor in np.maximum.accumulate(grid))
