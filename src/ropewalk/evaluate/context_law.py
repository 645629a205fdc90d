"""The loss of the same tokens by the context before them: L(c) = (alpha / c)^beta + gamma (Llama 2 Long, 2309.16039).

``gamma`` is what no context takes away, ``beta`` how fast context helps. A model that gains nothing from more context
has alpha near 0.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from ropewalk.core.error import UserError
from ropewalk.core.quantity import format_count
from ropewalk.evaluate.held_out_fit import FitTest, judge
from ropewalk.evaluate.score import Interval
from ropewalk.evaluate.separable_fit import Space, bootstrap, draw_unit_means, fit_one

_SPACE = Space(bounds=((0.01, 4.0),), free=(False, False), steps=160, near_steps=161)
_FEWEST, _SAMPLES = 5, 400


@dataclass(frozen=True, slots=True)
class ContextLaw:
    """A fitted law; each parameter has a bootstrap interval of 95 %. It was tested on the longest context."""

    alpha: Interval
    """Tokens."""
    beta: Interval
    gamma: Interval
    """Nats."""
    held_out: FitTest
    longest: Interval
    """The loss at the longest measured context, in nats, by the law."""

    @property
    def text(self) -> str:
        """One line for people."""
        told = ", ".join(
            f"{name} {value:.4g} [{low:.4g}, {high:.4g}]"
            for name, (value, low, high) in (("alpha", self.alpha), ("beta", self.beta), ("gamma", self.gamma))
        )
        return f"L(c) = (alpha/c)^beta + gamma: {told}; {self.held_out.text}"


def fit_context_law(
    contexts: Sequence[int],
    losses: Sequence[float],
    *,
    documents: Float64[np.ndarray, "contexts documents"] | None = None,
    seed: int = 0,
) -> ContextLaw:
    """Fit the losses (nats) of the same tokens at different ``contexts`` (tokens).

    The longest context is held out to judge the law, and the law is then fitted to all of them. With the losses of each
    of the ``documents`` (equally long, so that ``losses`` are their means) the intervals also say what other documents
    would have given: residuals alone say how well the law follows these ones. One document gives infinite intervals.
    Raises UserError where fewer than five contexts are given.
    """
    order = np.argsort(contexts)
    tokens, values = np.asarray(contexts, dtype=np.float64)[order], np.asarray(losses, dtype=np.float64)[order]
    if len(set(tokens.tolist())) < _FEWEST:
        raise UserError(
            "too few contexts for a law of three parameters",
            where="the losses by context",
            why=f"{format_count(len(set(tokens.tolist())), 'context')}, and one of them is held out",
            fix=f"measure the same tokens at {_FEWEST} contexts or more, better at seven",
        )
    last = np.arange(len(tokens)) == len(tokens) - 1
    exponents, terms = fit_one(_Terms(tokens[~last]), values[~last], _SPACE)
    held_out = judge(_evaluate(tokens, exponents, terms), values, last, over_all=True)
    exponents, terms = fit_one(_Terms(tokens), values, _SPACE)
    fitted = _evaluate(tokens, exponents, terms)
    fit = exponents, terms
    shifts: Float64[np.ndarray, "points samples"] | float = 0.0
    if documents is not None and documents.shape[1] > 1:
        shifts = draw_unit_means(documents[order], samples=_SAMPLES, seed=seed + 1)
    betas, coefficients = bootstrap(_Terms(tokens), values, _SPACE, fit, samples=_SAMPLES, seed=seed, shifts=shifts)
    if documents is not None and documents.shape[1] == 1:
        betas, coefficients = np.full_like(betas, np.nan), np.full_like(coefficients, np.nan)
    ends = coefficients[:, 0] + coefficients[:, 1] * tokens[-1] ** -betas[:, 0]
    return ContextLaw(
        alpha=_interval(float(terms[1] ** (1 / exponents[0])), coefficients[:, 1] ** (1 / betas[:, 0])),
        beta=_interval(float(exponents[0]), betas[:, 0]),
        gamma=_interval(float(terms[0]), coefficients[:, 0]),
        held_out=held_out,
        longest=_interval(float(fitted[-1]), ends),
    )


@dataclass(frozen=True, slots=True)
class _Terms:
    """1 and c^-beta at each context."""

    tokens: Float64[np.ndarray, "points"]

    def __call__(self, grid: Float64[np.ndarray, "grid 1"]) -> Float64[np.ndarray, "grid points 2"]:
        powers = self.tokens[None, :] ** -grid
        return np.stack([np.ones_like(powers), powers], axis=2)  # 2 x [grid, points] -> [grid, points, 2]


def _evaluate(
    tokens: Float64[np.ndarray, "points"], exponents: Float64[np.ndarray, "1"], terms: Float64[np.ndarray, "2"]
) -> Float64[np.ndarray, "points"]:
    return np.asarray(_Terms(tokens)(exponents[None])[0] @ terms)


def _interval(value: float, samples: Float64[np.ndarray, "samples"]) -> Interval:
    if np.isnan(samples).any():  # one document says nothing of others
        return value, -math.inf, math.inf
    low, high = np.percentile(samples, (2.5, 97.5))
    return value, float(low), float(high)
