"""The loss on a kind of text by its share of the mix and the tokens of training.

L(r, D) = E + B r^eta / D^beta + C / (r + 0.1)^gamma: the D-CPT law (2406.01375) without its term of the model's size.
``r`` is the share of this kind of text in the mix: of general text for the general loss, of domain text for the domain
loss. B may have either sign, because forgetting grows with the tokens. The law is tested on the largest budget and one
inner share, and refused where it does not predict them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64

from ropewalk.core.error import UserError
from ropewalk.core.quantity import format_count
from ropewalk.core.strict_json import read_float
from ropewalk.evaluate.held_out_fit import FitTest, judge
from ropewalk.evaluate.score import Interval
from ropewalk.evaluate.separable_fit import Space, bootstrap, fit_one

_EPSILON = 0.1
_SPACE = Space(bounds=((0.1, 4.0), (0.02, 2.0), (0.05, 6.0)), free=(False, True, False), steps=8, near_steps=13)
FEWEST_SHARES, FEWEST_BUDGETS = 5, 4
_PARAMETERS, _SAMPLES = 6, 200
Points = Float64[np.ndarray, "points"]


@dataclass(frozen=True, slots=True)
class MixLaw:
    """A fitted law with its bootstrap samples; the first row of ``exponents`` and ``terms`` is the fit itself."""

    exponents: Float64[np.ndarray, "samples 3"]
    """eta, beta, gamma."""
    terms: Float64[np.ndarray, "samples 3"]
    """E, B and C; B for D in units of ``unit_tokens``."""
    unit_tokens: float
    shares: tuple[float, float]
    """The measured range of the share."""
    tokens: tuple[float, float]
    """The measured range of the tokens."""
    noise: float
    """Nats: the standard deviation of the measurements around the law."""
    held_out: FitTest

    def predict_all(self, share: Points, tokens: float) -> Float64[np.ndarray, "samples points"]:
        """The loss in nats at each share, of the fit and of each bootstrap sample."""
        budgets = np.full_like(share, tokens / self.unit_tokens)
        basis = _Terms(share, budgets)(self.exponents)
        found: Float64[np.ndarray, "samples points"] = np.einsum("spt,st->sp", basis, self.terms)
        return found

    def predict(self, share: float, tokens: float, *, noise: bool = False) -> Interval:
        """The loss in nats with an interval of 95 % of the law, or of one new measurement with ``noise``."""
        found = self.predict_all(np.array([share]), tokens)[:, 0]
        value, spread = float(found[0]), found[1:]
        if noise:
            spread = spread + np.random.default_rng(0).normal(0.0, self.noise, len(spread))
        low, high = np.percentile(spread, (2.5, 97.5))
        return value, min(value, float(low)), max(value, float(high))

    def covers(self, share: float) -> bool:
        """True if the share lies within the measured range."""
        return self.shares[0] - 1e-9 <= share <= self.shares[1] + 1e-9

    def to_json(self) -> dict[str, Any]:
        """JSON-like data that ``read_law`` reads back."""
        tables = {"exponents": self.exponents.tolist(), "terms": self.terms.tolist()}
        ranges = {"shares": list(self.shares), "tokens": list(self.tokens)}
        rest = {"unit_tokens": self.unit_tokens, "noise": self.noise, "held_out": self.held_out.to_json()}
        return {**ranges, **rest, **tables}


def read_law(data: Mapping[str, Any]) -> MixLaw:
    """The law that ``to_json`` wrote. Raises KeyError, TypeError or ValueError for anything else."""
    held = data["held_out"]
    return MixLaw(
        np.asarray(data["exponents"], dtype=np.float64).reshape(-1, 3),
        np.asarray(data["terms"], dtype=np.float64).reshape(-1, 3),
        float(data["unit_tokens"]),
        (float(data["shares"][0]), float(data["shares"][1])),
        (float(data["tokens"][0]), float(data["tokens"][1])),
        float(data["noise"]),
        FitTest(read_float(held["error"]), read_float(held["r2"]), int(held["points"])),  # nan is never accepted
    )


def fit_mix_law(shares: Sequence[float], tokens: Sequence[float], losses: Sequence[float], *, seed: int = 0) -> MixLaw:
    """Fit measured losses (nats); point i has share ``shares[i]`` of the mix and ``tokens[i]`` of training.

    The law is judged on the largest budget and the middle share, and then fitted to all points. Raises UserError where
    there are fewer than five shares or four budgets.
    """
    share, budget, loss = (np.asarray(values, dtype=np.float64) for values in (shares, tokens, losses))
    levels, budgets = np.unique(share), np.unique(budget)
    if len(levels) < FEWEST_SHARES or len(budgets) < FEWEST_BUDGETS:
        raise UserError(
            "there are too few points for the law of the mix",
            where="the study's trained cells",
            why=f"{format_count(len(levels), 'share')} and {format_count(len(budgets), 'budget')} of "
            "tokens; one share and one budget are held out",
            fix=f"measure {FEWEST_SHARES} shares at {FEWEST_BUDGETS} budgets or more, as recipes/study-ratio.yaml does",
        )
    unit = float(budgets[0])
    held_out = judge(predict_unseen(share, budget, loss), loss, hold_out_cells(share, budget))
    terms_of = _Terms(share, budget / unit)
    exponents, terms = fit_one(terms_of, loss, _SPACE)
    fitted = terms_of(exponents[None])[0] @ terms
    noise = float(np.sqrt(np.square(loss - fitted).sum() / max(1, len(loss) - _PARAMETERS)))
    all_exponents, all_terms = bootstrap(terms_of, loss, _SPACE, (exponents, terms), samples=_SAMPLES, seed=seed)
    return MixLaw(
        np.concatenate([exponents[None], all_exponents]),  # [1, 3] and [samples, 3] -> [1 + samples, 3]
        np.concatenate([terms[None], all_terms]),  # [1, 3] and [samples, 3] -> [1 + samples, 3]
        unit,
        (float(levels[0]), float(levels[-1])),
        (float(budgets[0]), float(budgets[-1])),
        noise,
        held_out,
    )


def predict_unseen(shares: Points, tokens: Points, losses: Points) -> Points:
    """The loss in nats at each point by the law that has not seen the points of ``hold_out_cells``."""
    terms_of, seen = _Terms(shares, tokens / tokens.min()), ~hold_out_cells(shares, tokens)
    exponents, terms = fit_one(terms_of.pick(seen), losses[seen], _SPACE)
    predicted: Points = terms_of(exponents[None])[0] @ terms
    return predicted


def hold_out_cells(shares: Points, tokens: Points) -> Bool[np.ndarray, "points"]:
    """The points of the largest budget and those of the middle share."""
    levels = np.unique(shares)
    return np.asarray((tokens == tokens.max()) | (shares == levels[len(levels) // 2]), dtype=np.bool_)


@dataclass(frozen=True, slots=True)
class _Terms:
    """1, r^eta / D^beta and 1 / (r + 0.1)^gamma at each point."""

    shares: Points
    budgets: Points

    def __call__(self, grid: Float64[np.ndarray, "grid 3"]) -> Float64[np.ndarray, "grid points 3"]:
        eta, beta, gamma = (grid[:, number, None] for number in range(3))
        data = self.shares[None] ** eta / self.budgets[None] ** beta
        rest = (self.shares[None] + _EPSILON) ** -gamma
        return np.stack([np.ones_like(data), data, rest], axis=2)  # 3 x [grid, points] -> [grid, points, 3]

    def pick(self, kept: Bool[np.ndarray, "points"]) -> "_Terms":
        return _Terms(self.shares[kept], self.budgets[kept])
