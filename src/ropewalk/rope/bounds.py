"""The length that a theta can reach, by the two published arguments. Advice, not a gate: good models break both.

Men et al. (2405.14591): attention can prefer similar tokens at distance m only if B(m) = sum of cos(m * frequency) over
all pairs is not negative. Liu et al. (2310.05209): training has shown every angle only of pairs that made a whole turn,
so the first other pair limits the reach. The first bound is not monotone in theta: at 128 dimensions 5e6 is fine up to
82,998 tokens, 8e6 only up to 61,935. So it must be evaluated; a table does not work. The evaluation is cheap: a block
of neighbouring distances is one matrix product, because cos(a + b) = cos a cos b - sin a sin b.
"""

import math
from collections.abc import Iterator
from itertools import product

import numpy as np
from jaxtyping import Float64, Int64

from ropewalk.rope.frequency import plain_inv_freq

_BLOCK, _MOST_BLOCKS = 1024, 64
_NEAR_TOKENS, _NEAR_SHARE = 16, 1000
_ONE_PAIR, _LARGEST_THETA = 2, 1e18


def similarity(
    inv_freq: Float64[np.ndarray, "half"], distances: Int64[np.ndarray, "distances"]
) -> Float64[np.ndarray, "distances"]:
    """B(m) for each distance m in tokens."""
    return np.asarray(np.cos(np.outer(distances, inv_freq)).sum(axis=1))


def attraction(
    inv_freq: Float64[np.ndarray, "half"], edges: Int64[np.ndarray, "edges"]
) -> Float64[np.ndarray, "windows"]:
    """B(m) / B(0), averaged over the distances of each window ``edges[k] <= m < edges[k + 1]``; edges must grow.

    This is the expected attention by distance, as Llama 2 Long (Fig. 4) and CodeLlama (Fig. 9a) plot it, for queries
    and keys with equal weight on every pair. Values at single distances swing too much to be read.
    """
    values = np.concatenate(list(_blocks(inv_freq, int(edges[0]), int(edges[-1])))) / len(inv_freq)
    return np.asarray(np.add.reduceat(values, edges[:-1] - edges[0]) / np.diff(edges))


def first_negative(inv_freq: Float64[np.ndarray, "half"], limit_tokens: int) -> int | None:
    """The first distance below ``limit_tokens`` at which B is negative, or None. 128Ki distances take 10 ms."""
    found = _scan(inv_freq, 0, limit_tokens)
    return None if found is None else found[0]


def least_theta(head_dim: int, context_tokens: int, *, grid: float = 1.0005) -> float:
    """The smallest theta with B(m) >= 0 for all m < ``context_tokens``, to 1e-5 relative.

    The search uses a grid: each theta is ``grid`` times the last. On one core it takes 0.6 s at 16Ki and 2 s at 128Ki.
    It reproduces the finer search printed at kexue.fm/archives/10122 for 128 dimensions: 2.3e5 at 16Ki and 4.9e6 at
    128Ki. The paper's Table 2 uses a coarser grid. At longer contexts the windows of good thetas are so narrow that
    every grid misses some. Returns infinity where no theta up to 1e18 is large enough. A single pair is such a case:
    its cosine becomes negative for every theta.
    """
    theta = context_tokens / 2
    worst: int | None = None
    if head_dim == _ONE_PAIR:
        return math.inf
    while True:
        if theta > _LARGEST_THETA:
            return math.inf
        inv_freq = plain_inv_freq(theta, head_dim)
        worst = _follow(inv_freq, worst, context_tokens)
        if worst is None:
            found = _scan(inv_freq, 0, context_tokens)
            if found is None:
                break
            worst = found[1]
        theta *= grid
    low, high = theta / grid, theta
    while high / low > 1 + 1e-5:
        middle = math.sqrt(low * high)
        if _scan(plain_inv_freq(middle, head_dim), 0, context_tokens) is None:
            high = middle
        else:
            low = middle
    return high


def critical_dim(theta: float, *, head_dim: int, train_tokens: int) -> int:
    """Dimensions whose pairs turn at least once within ``train_tokens``; 92 of 128 for Llama 2."""
    return max(0, min(head_dim, 2 * math.ceil(head_dim / 2 * math.log(train_tokens / (2 * math.pi), theta))))


def reach(theta: float, *, known_dim: int, head_dim: int) -> float:
    """Tokens that a new theta reaches, with ``known_dim`` dimensions known before: 129,027 for Llama 2 at 1e6."""
    return float(2 * math.pi * theta ** (known_dim / head_dim))


def theta_for_reach(context_tokens: int, *, known_dim: int, head_dim: int) -> float:
    """The theta that reaches ``context_tokens``, the inverse of ``reach``; infinite beyond what a float holds."""
    try:
        return float((context_tokens / (2 * math.pi)) ** (head_dim / known_dim))
    except OverflowError:
        return math.inf


def suggest_theta(theta: float, *, head_dim: int, train_tokens: int, context_tokens: int) -> float:
    """The least round theta (1, 2 or 5 times a power of ten) that both arguments find large enough for a target.

    It is never below ``theta``, the base's own at ``train_tokens``. For Llama 2 at 16Ki it is 5e5; CodeLlama used 1e6.
    """
    known = max(2, critical_dim(theta, head_dim=head_dim, train_tokens=train_tokens))  # below one turn no pair is known
    least = max(theta, theta_for_reach(context_tokens, known_dim=known, head_dim=head_dim))
    rounds = (digit * 10.0**power for power, digit in product(range(1, 16), (1, 2, 5)))
    for found in rounds:
        if found >= least and first_negative(plain_inv_freq(found, head_dim), context_tokens) is None:
            return found
    return least


def _scan(inv_freq: Float64[np.ndarray, "half"], start: int, stop: int) -> tuple[int, int] | None:
    """The first negative distance in the range, and the most negative one of its chunk."""
    begin = start
    for values in _blocks(inv_freq, start, stop):
        negative = np.flatnonzero(values < 0)
        if negative.size:
            return begin + int(negative[0]), begin + int(values.argmin())
        begin += len(values)
    return None


def _blocks(inv_freq: Float64[np.ndarray, "half"], start: int, stop: int) -> Iterator[Float64[np.ndarray, "_"]]:
    """B at every distance from ``start`` to ``stop``, in growing chunks, since many searches end in the first chunk."""
    inner = np.outer(inv_freq, np.arange(min(_BLOCK, stop - start)))
    right = np.concatenate([np.cos(inner), -np.sin(inner)])
    blocks, width = 1, inner.shape[1]
    while start < stop:
        outer = np.outer(np.arange(start, min(stop, start + blocks * width), width), inv_freq)
        values = (np.concatenate([np.cos(outer), np.sin(outer)], axis=1) @ right).ravel()[: stop - start]
        yield values
        start, blocks = start + len(values), min(4 * blocks, _MOST_BLOCKS)


def _follow(inv_freq: Float64[np.ndarray, "half"], worst: int | None, limit_tokens: int) -> int | None:
    """The most negative distance near ``worst``, which comes from a nearby theta; None if none is negative there.

    The distances at which a theta fails move with theta, in proportion to their size. So this local check refuses most
    of the grid without a full scan.
    """
    if worst is None:
        return None
    width = _NEAR_TOKENS + worst // _NEAR_SHARE
    near = np.arange(max(0, worst - width), min(limit_tokens, worst + width))
    values = similarity(inv_freq, near)
    return int(near[values.argmin()]) if values.min() < 0 else None
