"""Resonance RoPE: wavelengths rounded to whole tokens, so that a pair meets the same angles again in every turn.

A pair with a wavelength of 6.28 tokens never returns to an angle it has seen. A pair of 6 tokens has six angles in
training and no other at any length (Wang et al., 2403.00071). No rope type of config.json is made for it, but
``longrope`` with the same list twice expresses it exactly.
"""

import math
from typing import Annotated, Any, Literal

import numpy as np
from jaxtyping import Float64
from pydantic import Field

from ropewalk.core.quantity import PositiveCount
from ropewalk.rope.frequency import plain_inv_freq, wavelengths
from ropewalk.rope.method import BaseRope, Method, check_head, filled, refuse_stacking
from ropewalk.rope.uniform import Linear, Ntk, Theta, Unchanged
from ropewalk.rope.yarn import Llama3, NtkByParts, Yarn

Rounded = Annotated[
    Unchanged | Theta | Linear | Ntk | NtkByParts | Yarn | Llama3,
    Field(discriminator="kind"),
]


class Resonance(Method):
    """The wavelengths of another method, each rounded to whole tokens.

    The fastest pairs move most (6.28 tokens become 6), so short context is disturbed and training is needed. The paper
    adds it to YaRN: ``{kind: resonance, of: {kind: yarn}}``. transformers runs it as a ``longrope``. Engines that do
    not read ``attention_factor`` lose the attention factor of a yarn.
    """

    kind: Literal["resonance"] = "resonance"
    of: Rounded = Unchanged()
    """What is rounded; completed together with this."""
    wavelengths_tokens: tuple[PositiveCount, ...] | None = None
    """Tokens per turn of each pair; filled when the method is completed."""
    original_tokens: PositiveCount | None = None
    """Written as the original length and without meaning, as both lists are the same: the target, so that readers that
    make an attention factor of the two lengths make 1 of them."""

    def complete(self, base: BaseRope, context_tokens: int) -> Method:
        """Complete ``of``, then round its wavelengths.

        Raises UserError as ``of`` does, and where a base runs a method that cannot be rounded.
        """
        check_head(base)
        of = self.of.complete(base, context_tokens)
        if not isinstance(of, Unchanged | Theta | Linear | Ntk | NtkByParts | Yarn | Llama3):
            raise refuse_stacking(self, of)
        exact = wavelengths(of.inv_freq(base.theta, base.head_dim))
        whole = tuple(int(tokens) for tokens in np.rint(exact))
        return Resonance(of=of, wavelengths_tokens=whole, original_tokens=context_tokens)

    def inv_freq(self, theta: float, head_dim: int) -> Float64[np.ndarray, "half"]:
        whole = np.array(filled(self.wavelengths_tokens), dtype=np.float64)
        assert len(whole) == head_dim // 2, "completed for another head"
        return np.asarray(2 * math.pi / whole)

    def final_theta(self, theta: float) -> float:
        return self.of.final_theta(theta)

    @property
    def attention_factor(self) -> float:
        return self.of.attention_factor

    def to_hf(self, theta: float) -> dict[str, Any]:
        """A longrope with two equal lists, and with the attention factor written out."""
        theta, head_dim = self.final_theta(theta), 2 * len(filled(self.wavelengths_tokens))
        factors = [float(factor) for factor in plain_inv_freq(theta, head_dim) / self.inv_freq(theta, head_dim)]
        return {
            "rope_type": "longrope",
            "rope_theta": theta,
            "factor": 1.0,
            "short_factor": factors,
            "long_factor": factors,
            "original_max_position_embeddings": filled(self.original_tokens),
            "attention_factor": self.attention_factor,
        }
