"""How far a theta can reach, by the two published arguments. Advice, not a gate: good models break both.

Men et al. (2405.14591): attention can prefer similar tokens at distance m only if B(m) = sum of cos(m * frequency)
over all pairs is not negative. Liu et al. (2310.05209): only the pairs that made a whole turn in training are known,
so the first unknown pair limits the reach. The surprise: the first is not monotone in theta (at 128 dimensions 5e6
is fine up to 82,998 tokens, 8e6 only up to 61,935), so it must be evaluated, never looked up.
"""

import math

import numpy as np
from jaxtyping import Float64, Int64

from ropewalk.rope.frequency import plain_inv_freq

_CHUNK = 4096
_WITNESS_WIDTH = 16
_GRID_RATIO = 1.0005


def similarity(
    inv_freq: Float64[np.ndarray, "half"], distances: Int64[np.ndarray, "distances"]
) -> Float64[np.ndarray, "distances"]:
    """B(m) for each distance m in tokens."""
    return np.asarray(np.cos(np.outer(distances, inv_freq)).sum(axis=1))


def first_negative(inv_freq: Float64[np.ndarray, "half"], limit_tokens: int) -> int | None:
    """The first distance below ``limit_tokens`` at which B is negative, or None. 16Ki distances take 10 ms."""
    found = _scan(inv_freq, 0, limit_tokens)
    return None if found is None else found[0]


def least_theta(head_dim: int, context_tokens: int) -> float:
    """The smallest theta with B(m) >= 0 for all m < ``context_tokens``, to 1e-5 relative.

    A search on a grid of 0.05 % steps; it takes 3 s at 16Ki, 10 s at 32Ki. Reproduces the finer search printed at
    kexue.fm/archives/10122 for 128 dimensions: 2.7e4 at 4Ki, 2.3e5 at 16Ki (the paper's Table 2 is a coarser grid).
    """
    theta, worst = context_tokens / 2, None
    while True:
        if worst is None or not _fails_near(theta, head_dim, worst, context_tokens):
            found = _scan(plain_inv_freq(theta, head_dim), 0, context_tokens)
            if found is None:
                break
            worst = found[1]
        theta *= _GRID_RATIO
    low, high = theta / _GRID_RATIO, theta
    while high / low > 1 + 1e-5:
        middle = math.sqrt(low * high)
        if _scan(plain_inv_freq(middle, head_dim), 0, context_tokens) is None:
            high = middle
        else:
            low = middle
    return high


def critical_dim(theta: float, *, head_dim: int, train_tokens: int) -> int:
    """Dimensions whose pairs turn at least once within ``train_tokens``; 92 of 128 for Llama 2."""
    return min(head_dim, 2 * math.ceil(head_dim / 2 * math.log(train_tokens / (2 * math.pi), theta)))


def critical_theta(theta: float, *, train_tokens: int, tuned_tokens: int) -> float:
    """The theta above which tuning at ``tuned_tokens`` reaches beyond it: 71,738 for Llama 2 at 16Ki."""
    return float(theta ** math.log(tuned_tokens / (2 * math.pi), train_tokens / (2 * math.pi)))


def reach(theta: float, *, known_dim: int, head_dim: int) -> float:
    """Tokens that a new theta reaches, when ``known_dim`` dimensions were known before: 129,027 for Llama 2 at 1e6."""
    return float(2 * math.pi * theta ** (known_dim / head_dim))


def theta_for_reach(context_tokens: int, *, known_dim: int, head_dim: int) -> float:
    """The theta that reaches ``context_tokens``; ``reach`` read backwards."""
    return float((context_tokens / (2 * math.pi)) ** (head_dim / known_dim))


def _scan(inv_freq: Float64[np.ndarray, "half"], start: int, stop: int) -> tuple[int, int] | None:
    """The first negative distance in the range, and the most negative one of its chunk."""
    for begin in range(start, stop, _CHUNK):
        values = similarity(inv_freq, np.arange(begin, min(begin + _CHUNK, stop)))
        negative = np.flatnonzero(values < 0)
        if negative.size:
            return begin + int(negative[0]), begin + int(values.argmin())
    return None


def _fails_near(theta: float, head_dim: int, worst: int, limit_tokens: int) -> bool:
    # Neighbouring thetas fail at neighbouring distances, so most of the grid is refused without a full scan.
    window = max(0, worst - _WITNESS_WIDTH), min(limit_tokens, worst + _WITNESS_WIDTH)
    return _scan(plain_inv_freq(theta, head_dim), *window) is not None
