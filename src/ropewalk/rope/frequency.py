"""How a position becomes angles: frequencies of pairs, their wavelengths, and the ramp between two of them.

RoPE turns pair ``i`` of a head by ``position * theta ** (-2 i / head_dim)`` radians (Su et al., 2104.09864). This file
computes in float64; models compute the same numbers in float32, so equal means equal to about 1e-6. The ramp of YaRN is
linear in the *index* of a pair in every common implementation. Eq. 18 of the paper (2309.00071) makes it linear in the
number of turns. The two differ by up to 296 % at a factor of 32.
"""

import math

import numpy as np
from jaxtyping import Float64


def plain_inv_freq(theta: float, head_dim: int) -> Float64[np.ndarray, "half"]:
    """Radians per token of each pair, highest first: ``theta ** (-2 i / head_dim)``."""
    return np.asarray(float(theta) ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim))


def wavelengths(inv_freq: Float64[np.ndarray, "half"]) -> Float64[np.ndarray, "half"]:
    """Tokens in a whole turn of each pair; infinite for a pair that does not turn."""
    with np.errstate(divide="ignore"):
        return np.asarray(2 * math.pi / inv_freq)


def count_whole_turns(inv_freq: Float64[np.ndarray, "half"], context_tokens: int) -> int:
    """Pairs that turn at least once within ``context_tokens``; training has seen every angle of these pairs."""
    return int(np.count_nonzero(wavelengths(inv_freq) <= context_tokens))


def ntk_theta(theta: float, head_dim: int, factor: float) -> float:
    """The theta of NTK-aware interpolation: the lowest frequency becomes ``factor`` times lower, the highest stays.

    With factor 4 at 1e4 and 128 dimensions it is 40,889.94. Needs ``head_dim`` > 2.
    """
    return float(theta * factor ** (head_dim / (head_dim - 2)))


def turning_pair(turns: float, *, theta: float, head_dim: int, context_tokens: int) -> float:
    """The (fractional) index of the pair that turns ``turns`` times within ``context_tokens``."""
    return head_dim * math.log(context_tokens / (turns * 2 * math.pi)) / (2 * math.log(theta))


def index_ramp(low: float, high: float, pairs: int) -> Float64[np.ndarray, "half"]:
    """0 up to pair ``low``, 1 from pair ``high`` on, linear in between."""
    # transformers widens an empty ramp by 0.001, so this value is part of the definition.
    width = (high - low) or 0.001
    return np.clip((np.arange(pairs, dtype=np.float64) - low) / width, 0.0, 1.0)
