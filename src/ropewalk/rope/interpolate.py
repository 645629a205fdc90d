"""Frequencies between a layer's former and new position method, for changes that would shock a model.

Frequencies move along a geometric mean, so a pair that ends eight times slower is about three times slower half-way. A
pair that stands still at one end (NoPE, proportional) has no geometric mean, so it moves linearly. A window is not
interpolated: it is a count of keys, and the base was either full or windowed. So a window holds from the first step.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from ropewalk.rope.layers import LayerPosition


@dataclass(frozen=True, slots=True)
class Between:
    """A mix of two layers: ``share`` 0 gives exactly ``former``, 1 gives exactly ``latter``."""

    former: LayerPosition
    latter: LayerPosition
    share: float = 1.0

    @property
    def depends_on_length(self) -> bool:
        """Whether the length of a document decides its frequencies."""
        return any(layer.rope.depends_on_length for layer in (self.former, self.latter))

    def inv_freq_at(self, tokens: int, head_dim: int) -> Float64[np.ndarray, "half"]:
        """Radians per token of each pair in a document of ``tokens``."""
        before, after = (layer.inv_freq_at(tokens, head_dim) for layer in (self.former, self.latter))
        if self.share in (0, 1):
            return after if self.share else before
        line = (1 - self.share) * before + self.share * after
        return np.where((before == 0) | (after == 0), line, before ** (1 - self.share) * after**self.share)

    @property
    def attention_factor(self) -> float:
        """The factor of both cosine and sine."""
        return (1 - self.share) * self.former.attention_factor + self.share * self.latter.attention_factor
