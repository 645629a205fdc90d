"""Methods whose frequencies depend on the length of a document: dynamic NTK and LongRoPE.

The length is that of the token's own document. So a packed document gets the same angles as alone, on any number of
ranks. transformers takes the largest position of the local batch instead. It reads dynamic NTK's original length from
``max_position_embeddings``, so such a folder must keep the base's value there.
"""

import math
from typing import Annotated, Any, Literal

import numpy as np
from jaxtyping import Float64
from pydantic import Field, model_validator

from ropewalk.core.error import UserError
from ropewalk.core.quantity import PositiveCount, format_count
from ropewalk.rope.frequency import ntk_theta, plain_inv_freq
from ropewalk.rope.longrope_search import Search
from ropewalk.rope.method import BaseRope, Factor, Method, Stretch, filled
from ropewalk.rope.uniform import check_pairs

PairFactors = tuple[Annotated[float, Field(gt=0)], ...]


class Dynamic(Stretch):
    """Dynamic NTK: in a document of l > L tokens, ``theta' = theta * (factor * l / L - factor + 1) ** (d / (d - 2))``.

    From forum posts of emozilla and bloc97 (2023), in the form of transformers. A ``factor`` of 1 makes the lowest
    frequency l / L times lower. Short documents do not change. Longer ones work without training; training sees another
    theta for each length. The config.json form has two limits. A folder keeps ``max_position_embeddings`` = L, so
    readers treat it as a short model. A cache of keys mixes thetas, since it was filled at smaller lengths (YaRN,
    2309.00071, section 3.3). transformers also keeps the longest length it has met until a document shorter than L.
    """

    kind: Literal["dynamic"] = "dynamic"
    factor: Factor = 1.0
    """1 lowers the lowest frequency in proportion to the length; more lowers it further."""
    original_tokens: PositiveCount | None = None
    """L; the base's context unless said otherwise."""

    @property
    def depends_on_length(self) -> bool:
        return True

    def inv_freq(self, theta: float, head_dim: int) -> Float64[np.ndarray, "half"]:
        return plain_inv_freq(self.final_theta(theta), head_dim)

    def inv_freq_at(self, tokens: int, theta: float, head_dim: int) -> Float64[np.ndarray, "half"]:
        times = max(1.0, tokens / filled(self.original_tokens))
        return plain_inv_freq(
            ntk_theta(self.final_theta(theta), head_dim, self.factor * times - self.factor + 1), head_dim
        )

    def to_hf(self, theta: float) -> dict[str, Any]:
        return {"rope_type": "dynamic", "rope_theta": self.final_theta(theta), "factor": self.factor}

    def config_tokens(self, context_tokens: int) -> int:
        return filled(self.original_tokens)

    def _open(self, base: BaseRope, context_tokens: int) -> dict[str, Any]:
        check_pairs(self, base)
        return {"original_tokens": base.context_tokens}


class LongRope(Stretch):
    """A divisor of its own for each pair, ``long_factor`` in documents longer than the original, else ``short_factor``.

    Ding et al., 2402.13753; Phi-3. ``theta_i = 1 / (factor_i * theta ** (2 i / d))``. Cosine and sine are multiplied by
    ``sqrt(1 + ln(factor) / ln(original_tokens))`` at any length. Without ``long_factor``, a search finds it on the
    base's own loss. The search costs ``search.evaluations`` readings of a few long documents; the training after it can
    be short. Short documents keep their angles, but not their attention factor. transformers reads this method. Engines
    that serve many texts at once use one list for all. A cache of keys that grows past the original length mixes both
    lists.
    """

    kind: Literal["longrope"] = "longrope"
    short_factor: PairFactors | None = None
    """1 for every pair unless given."""
    long_factor: PairFactors | None = None
    """Each pair's divisor in documents longer than the original; null: it is searched."""
    original_tokens: PositiveCount | None = None
    """The original length; the base's context unless said otherwise."""
    factor: Factor | None = None
    """Target over original; only the attention factor comes of it."""
    fixed_attention_factor: float | None = Field(default=None, gt=0)
    """Replaces the formula."""
    search: Search | None = None
    """How ``long_factor`` is searched, where it is not given."""

    @model_validator(mode="after")
    def _check_factors(self) -> "LongRope":
        if self.long_factor is None and self.search is None:
            raise ValueError("give long_factor, or search: {} to find it")
        if self.original_tokens == 1:
            raise ValueError("original_tokens: there is no attention factor for a length of 1")
        if self.long_factor and self.short_factor and len(self.long_factor) != len(self.short_factor):
            raise ValueError(
                f"there are {format_count(len(self.short_factor), 'short factor')} and "
                f"{format_count(len(self.long_factor), 'long factor')}, and both must have one per pair"
            )
        return self

    def complete(self, base: BaseRope, context_tokens: int) -> Method:
        """Complete the method.

        Raises UserError as every method does, where no factors are given, and where their count is not that of a head's
        pairs.
        """
        if self.long_factor is None:
            assert self.search is not None
            raise UserError(
                "longrope has no factors yet",
                where="rope.long_factor",
                why=f"they must be searched first, with up to {self.search.evaluations} evaluations of the base",
                fix="set it as rope of a stage in a recipe, and ropewalk run searches the factors; or give long_factor",
            )
        pairs = base.head_dim // 2
        for name, factors in (("short_factor", self.short_factor), ("long_factor", self.long_factor)):
            if factors is not None and len(factors) != pairs:
                raise UserError(
                    "longrope needs one factor per pair",
                    where=f"rope.{name}",
                    why=f"there are {len(factors)}, and a head of {base.head_dim} dimensions has {pairs} pairs",
                    fix=f"give {pairs} factors",
                )
        return super().complete(base, context_tokens)

    @property
    def depends_on_length(self) -> bool:
        return self.short_factor != self.long_factor

    def inv_freq(self, theta: float, head_dim: int) -> Float64[np.ndarray, "half"]:
        return self._divide(filled(self.short_factor), theta, head_dim)

    def inv_freq_at(self, tokens: int, theta: float, head_dim: int) -> Float64[np.ndarray, "half"]:
        short = tokens <= filled(self.original_tokens)
        return self._divide(filled(self.short_factor if short else self.long_factor), theta, head_dim)

    @property
    def attention_factor(self) -> float:
        return self.fixed_attention_factor or longrope_attention(filled(self.factor), filled(self.original_tokens))

    def to_hf(self, theta: float) -> dict[str, Any]:
        """``rope_parameters`` with the attention factor written out, because readers use different lengths for it."""
        return {
            "rope_type": "longrope",
            "rope_theta": self.final_theta(theta),
            "factor": filled(self.factor),
            "short_factor": list(filled(self.short_factor)),
            "long_factor": list(filled(self.long_factor)),
            "original_max_position_embeddings": filled(self.original_tokens),
            "attention_factor": self.attention_factor,
        }

    def _divide(self, factors: PairFactors, theta: float, head_dim: int) -> Float64[np.ndarray, "half"]:
        return np.asarray(plain_inv_freq(self.final_theta(theta), head_dim) / np.array(factors))

    def _open(self, base: BaseRope, context_tokens: int) -> dict[str, Any]:
        original = self.original_tokens or base.context_tokens
        ones = (1.0,) * (base.head_dim // 2)
        return {"original_tokens": original, "factor": max(1.0, context_tokens / original), "short_factor": ones}

    def _reopen(self, values: dict[str, Any], base: BaseRope, context_tokens: int) -> dict[str, Any]:
        return {"factor": max(values["factor"], context_tokens / values["original_tokens"])}


def longrope_attention(factor: float, original_tokens: int) -> float:
    """LongRoPE's attention factor: 1.1902 for a factor of 32 over 4Ki."""
    return math.sqrt(1 + math.log(factor) / math.log(original_tokens))
