"""Methods that treat fast and slow pairs differently: NTK-by-parts, YaRN, Llama 3.

Fast pairs turn many times within the original context and keep their frequency; slow ones are divided by the factor.
Between the two, YaRN is linear in a pair's index and Llama 3 is linear in its number of turns.
"""

import math
from typing import Any, Literal

import numpy as np
from jaxtyping import Float64
from pydantic import Field, model_validator

from ropewalk.core.quantity import PositiveCount
from ropewalk.rope.frequency import index_ramp, plain_inv_freq, turning_pair
from ropewalk.rope.method import BaseRope, Factor, Stretch, filled


class ByParts(Stretch):
    """A factor for slow pairs, and the context against which turns are counted."""

    factor: Factor | None = None
    """What slow pairs are divided by; null: target over the original length."""
    original_tokens: PositiveCount | None = None
    """The context against which turns are counted; null: the base's original one."""

    @property
    def begins_tokens(self) -> int:
        return filled(self.original_tokens)

    def _open(self, base: BaseRope, context_tokens: int) -> dict[str, Any]:
        original = self.original_tokens or base.context_tokens
        return {"original_tokens": original, "factor": max(1.0, context_tokens / original)}

    def _reopen(self, values: dict[str, Any], base: BaseRope, context_tokens: int) -> dict[str, Any]:
        # Some configs promise less than their factor gives (Qwen: 32Ki with a yarn of 4), so the factor never shrinks.
        return {"factor": max(values["factor"], context_tokens / values["original_tokens"])}


class Ramp(ByParts):
    """A ramp over pair indices, from frequencies that stay to frequencies divided by ``factor``.

    It begins at the pair with ``beta_fast`` turns within ``original_tokens`` and ends at the pair with ``beta_slow``.
    ``truncate`` rounds both ends outwards to whole pairs. transformers 5.23 reads that key only at the top level of
    ``rope_parameters``, so ``to_hf`` puts it there.
    """

    beta_fast: float = Field(default=32.0, gt=0)
    """Turns within the original length from which a pair stays as it is."""
    beta_slow: float = Field(default=1.0, gt=0)
    """Turns within the original length up to which a pair is divided by the factor."""
    truncate: bool = True
    """Whether the ramp's ends are rounded outwards to whole pairs."""

    @model_validator(mode="after")
    def _check_betas(self) -> "Ramp":
        if self.beta_fast < self.beta_slow:  # they may be equal, as in Kimi K2
            raise ValueError(f"beta_fast ({self.beta_fast:g}) must not be less than beta_slow ({self.beta_slow:g})")
        return self

    def ramp_ends(self, theta: float, head_dim: int) -> tuple[float, float]:
        """The index of the pair where the ramp begins, and where it ends: 20 and 46 for Llama 2."""
        low, high = (
            turning_pair(turns, theta=theta, head_dim=head_dim, context_tokens=filled(self.original_tokens))
            for turns in (self.beta_fast, self.beta_slow)
        )
        if self.truncate:
            low, high = float(math.floor(low)), float(math.ceil(high))
        return max(low, 0.0), min(high, head_dim - 1.0)

    def inv_freq(self, theta: float, head_dim: int) -> Float64[np.ndarray, "half"]:
        theta = self.final_theta(theta)
        low, high = self.ramp_ends(theta, head_dim)
        plain, ramp = plain_inv_freq(theta, head_dim), index_ramp(low, high, head_dim // 2)
        return np.asarray(plain / filled(self.factor) * ramp + plain * (1 - ramp))

    def to_hf(self, theta: float) -> dict[str, Any]:
        values = {
            "rope_type": "yarn",
            "rope_theta": self.final_theta(theta),
            "factor": filled(self.factor),
            "original_max_position_embeddings": filled(self.original_tokens),
            "beta_fast": self.beta_fast,
            "beta_slow": self.beta_slow,
            "truncate": self.truncate,
        }
        return values | self._temperature()

    def _temperature(self) -> dict[str, float]:
        """The keys of config.json that decide the attention factor, where the default formula does not."""
        return {"attention_factor": 1.0}


class NtkByParts(Ramp):
    """YaRN's frequencies without its attention factor; in config.json a yarn with ``attention_factor`` 1.

    From a pull request of bloc97 (2023). Fast pairs stay, so short context loses little without training and nearly
    nothing with it. Readers of ``yarn`` that honour ``attention_factor`` read it; transformers does.
    """

    kind: Literal["ntk_by_parts"] = "ntk_by_parts"


class Yarn(Ramp):
    """The ramp, and an attention factor of ``0.1 ln(factor) + 1`` (2309.00071, as its authors' code has it).

    In its paper it is the best method without training, and 400 steps were enough for Llama 2 at 16 times. The
    attention factor holds at any length, so it sharpens attention in short context too. transformers, vLLM, SGLang and
    llama.cpp read it. They differ where ``mscale``, ``truncate`` or the attention factor have custom values.
    """

    kind: Literal["yarn"] = "yarn"
    fixed_attention_factor: float | None = Field(default=None, gt=0)
    """Replaces the formula."""
    mscale: float | None = Field(default=None, gt=0)
    """First of DeepSeek's two weights of the attention factor; with ``mscale_all_dim``."""
    mscale_all_dim: float | None = Field(default=None, gt=0)
    """DeepSeek's two weights: the attention factor is then the quotient of two formulas."""

    @model_validator(mode="after")
    def _check_mscale(self) -> "Yarn":
        if (self.mscale is None) != (self.mscale_all_dim is None):
            raise ValueError("mscale and mscale_all_dim go together: transformers ignores one without the other")
        return self

    @property
    def attention_factor(self) -> float:
        if self.fixed_attention_factor is not None:
            return self.fixed_attention_factor
        growth = 0.1 * math.log(filled(self.factor))
        if self.mscale is None or self.mscale_all_dim is None:
            return growth + 1
        return (self.mscale * growth + 1) / (self.mscale_all_dim * growth + 1)

    @property
    def score_factor(self) -> float:
        """The factor of all scores in classes with latent attention; there RoPE turns only a part of each product."""
        return ((self.mscale_all_dim or 0.0) * 0.1 * math.log(filled(self.factor)) + 1) ** 2

    def _temperature(self) -> dict[str, float]:
        return {
            key: value
            for key, value in (
                ("attention_factor", self.fixed_attention_factor),
                ("mscale", self.mscale),
                ("mscale_all_dim", self.mscale_all_dim),
            )
            if value is not None
        }


class Llama3(ByParts):
    """The rule of Llama 3.1 (2407.21783): keep, blend or divide a pair by its turns within ``original_tokens``.

    A pair with more than ``high_freq_factor`` turns is kept; a pair with fewer than ``low_freq_factor`` is divided by
    ``factor``. No attention factor. Short context keeps its fast pairs. Llama 3.1 took 800B tokens to reach 128Ki. Most
    engines read it.
    """

    kind: Literal["llama3"] = "llama3"
    low_freq_factor: float = Field(default=1.0, gt=0)
    """Turns within the original length below which a pair is divided by the factor."""
    high_freq_factor: float = Field(default=4.0, gt=0)
    """Turns within the original length above which a pair stays as it is."""

    @model_validator(mode="after")
    def _check_factors(self) -> "Llama3":
        if self.high_freq_factor <= self.low_freq_factor:
            raise ValueError(
                f"high_freq_factor ({self.high_freq_factor:g}) must be larger than "
                f"low_freq_factor ({self.low_freq_factor:g})"
            )
        return self

    def inv_freq(self, theta: float, head_dim: int) -> Float64[np.ndarray, "half"]:
        plain = plain_inv_freq(self.final_theta(theta), head_dim)
        turns = filled(self.original_tokens) * plain / (2 * math.pi)
        kept = np.clip((turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor), 0.0, 1.0)
        return np.asarray(kept * plain + (1 - kept) * plain / filled(self.factor))

    def to_hf(self, theta: float) -> dict[str, Any]:
        return {
            "rope_type": "llama3",
            "rope_theta": self.final_theta(theta),
            "factor": filled(self.factor),
            "low_freq_factor": self.low_freq_factor,
            "high_freq_factor": self.high_freq_factor,
            "original_max_position_embeddings": filled(self.original_tokens),
        }
