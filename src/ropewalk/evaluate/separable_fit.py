"""Least squares for laws that are linear in some coefficients once a few exponents are fixed.

``y = c_1 f_1(x; e) + c_2 f_2(x; e) + ...``: for each exponent vector e on a grid the best coefficients have a closed
form. So the search is global, needs no start values, and gives the same answer on each machine. The grid is then
narrowed around the best exponents. The bootstrap resamples residuals and fits all samples on one grid at once.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from jaxtyping import Float64

from ropewalk.evaluate.student_t import Z, standard_errors

Columns = Callable[[Float64[np.ndarray, "grid exponents"]], Float64[np.ndarray, "grid points terms"]]
"""The terms f of each point for each exponent vector."""
_ROUNDS, _NARROWING = 10, 0.35
_CHUNK = 256
_FARTHEST = 1.2
"""Of the logarithm of an exponent, for the grid of the bootstrap."""


@dataclass(frozen=True, slots=True)
class Space:
    """Where exponents lie, and which coefficients may be negative."""

    bounds: Sequence[tuple[float, float]]
    """(smallest, largest) value of each exponent; all are above 0 and searched by their logarithms."""
    free: Sequence[bool]
    """For each term: whether its coefficient may have either sign; else it is 0 or more."""
    steps: int
    """Values of each exponent on a grid of the search."""
    near_steps: int
    """Values of each exponent on the bootstrap's grid; odd, so that the fit is the middle one."""

    def grid(self, bounds: Sequence[tuple[float, float]]) -> Float64[np.ndarray, "grid exponents"]:
        """All exponent vectors within ``bounds``, even in their logarithms."""
        axes = [np.geomspace(low, high, self.steps) for low, high in bounds]
        return np.stack([axis.ravel() for axis in np.meshgrid(*axes, indexing="ij")], axis=1)


def fit_one(
    columns: Columns, values: Float64[np.ndarray, "points"], space: Space
) -> tuple[Float64[np.ndarray, "exponents"], Float64[np.ndarray, "terms"]]:
    """The exponents and coefficients with the smallest squared error."""
    column = values[:, None]
    (exponents, terms), error = _search(columns, column, space, space.grid(space.bounds))
    widths = [np.log(high / low) for low, high in space.bounds]
    for number in range(_ROUNDS):
        scale = _NARROWING ** (number + 1)
        near = [
            (max(low, middle * np.exp(-width * scale)), min(high, middle * np.exp(width * scale)))
            for (low, high), middle, width in zip(space.bounds, exponents[0], widths, strict=True)
        ]
        found, its = _search(columns, column, space, space.grid(near))
        if its[0] < error[0]:
            (exponents, terms), error = found, its
    return exponents[0], terms[0]


def bootstrap(
    columns: Columns,
    values: Float64[np.ndarray, "points"],
    space: Space,
    fit: tuple[Float64[np.ndarray, "exponents"], Float64[np.ndarray, "terms"]],
    *,
    samples: int,
    seed: int,
    shifts: Float64[np.ndarray, "points samples"] | float = 0.0,
) -> tuple[Float64[np.ndarray, "samples exponents"], Float64[np.ndarray, "samples terms"]]:
    """The fits of ``samples`` resampled data sets: residuals of ``fit`` drawn again (Efron 1979).

    ``shifts`` are added to the values of each data set: what other units behind the points would have changed in them.

    Residuals are widened by sqrt(n / (n - p)), because the fit's p parameters took up some of the noise, and by
    Student's quantile over the normal one, because n - p degrees of freedom know the noise only so well. All samples
    share one grid around the fit, dense near to it, with the fit itself as a point.
    """
    exponents, terms = fit
    points, parameters = len(values), len(exponents) + len(terms)
    assert points > parameters
    fitted = columns(exponents[None])[0] @ terms
    left = values - fitted
    widened = math.sqrt(points / (points - parameters)) * standard_errors(points - parameters) / Z
    left = (left - left.mean()) * widened
    drawn = np.random.default_rng(seed).integers(points, size=(points, samples))
    near = np.linspace(-1, 1, space.near_steps) ** 3 * _FARTHEST
    axes = [
        np.unique(np.clip(middle * np.exp(near), low, high))
        for middle, (low, high) in zip(exponents, space.bounds, strict=True)
    ]
    grid = np.stack([axis.ravel() for axis in np.meshgrid(*axes, indexing="ij")], axis=1)
    return _search(columns, fitted[:, None] + left[drawn] + shifts, space, grid)[0]


def draw_unit_means(
    values: Float64[np.ndarray, "points units"], *, samples: int, seed: int
) -> Float64[np.ndarray, "points samples"]:
    """How far the mean over the units lies from the measured one where as many units are drawn again.

    Units are drawn whole, since a unit that is hard at one point is hard at all of them. Widened as residuals are, for
    units are few. There are two units or more.
    """
    units = values.shape[1]
    assert units > 1
    drawn = np.random.default_rng(seed).integers(units, size=(units, samples))
    means: Float64[np.ndarray, "points samples"] = values[:, drawn].mean(axis=1) - values.mean(axis=1)[:, None]
    return means * (math.sqrt(units / (units - 1)) * standard_errors(units - 1) / Z)


def _search(
    columns: Columns,
    values: Float64[np.ndarray, "points samples"],
    space: Space,
    grid: Float64[np.ndarray, "grid exponents"],
) -> tuple[
    tuple[Float64[np.ndarray, "samples exponents"], Float64[np.ndarray, "samples terms"]],
    Float64[np.ndarray, "samples"],
]:
    """((exponents, coefficients), squared error) of the best grid point of each sample."""
    samples, terms = values.shape[1], len(space.free)
    error = np.full(samples, np.inf)
    exponents, coefficients = np.zeros((samples, grid.shape[1])), np.zeros((samples, terms))
    choices = [(True,) if free else (True, False) for free in space.free]
    for begin in range(0, len(grid), _CHUNK):
        part = grid[begin : begin + _CHUNK]
        basis = columns(part)
        for used in product(*choices):
            if not any(used):
                continue
            mine = np.flatnonzero(used)
            own = basis[:, :, mine]
            # [grid, terms, points] x [points, samples] -> [grid, terms, samples]
            solved = np.linalg.pinv(own) @ values
            left = np.square(values - own @ solved).sum(axis=1)
            signed = [place for place, term in enumerate(mine.tolist()) if not space.free[term]]
            left[(solved[:, signed] < 0).any(axis=1)] = np.inf
            place = left.argmin(axis=0)
            found = left[place, np.arange(samples)]
            better = found < error
            error[better] = found[better]
            exponents[better] = part[place[better]]
            new = np.zeros((int(better.sum()), terms))
            new[:, mine] = solved[place[better], :, np.flatnonzero(better)]
            coefficients[better] = new
    return (exponents, coefficients), error
