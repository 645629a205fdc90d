"""Which layers turn positions and how far each may look: a short pattern, repeated over the depth of a model.

Hybrids such as OLMo 3 (three windows, one full layer) or SmolLM3 (every fourth layer without RoPE) are such patterns.
Only the uniform pattern is run now: windows and layers without RoPE are refused by name before anything is built.
"""

from typing import Literal

from ropewalk.core.error import UserError
from ropewalk.core.quantity import PositiveCount
from ropewalk.core.spec import Spec


class LayerRule(Spec):
    """What one layer does: turn positions (``rope``) or not (``nope``), over all tokens or a window of them."""

    position: Literal["rope", "nope"] = "rope"
    window_tokens: PositiveCount | None = None


UNIFORM = LayerRule()


def spread_rules(pattern: tuple[LayerRule, ...], layers: int) -> tuple[LayerRule, ...]:
    """One rule per layer: ``pattern`` repeated from the first layer on, the uniform rule where it is empty."""
    return tuple((pattern or (UNIFORM,))[layer % (len(pattern) or 1)] for layer in range(layers))


def require_uniform(pattern: tuple[LayerRule, ...]) -> None:
    """Raise UserError if a rule of ``pattern`` asks for more than RoPE over all tokens."""
    for index, rule in enumerate(pattern):
        if rule != UNIFORM:
            wish = "no RoPE" if rule.position == "nope" else f"a window of {rule.window_tokens} tokens"
            raise UserError(
                "layers that differ are not supported yet",
                where=f"layers[{index}]",
                why=f"it asks for {wish}; what is missing is attention and export per layer",
                fix="leave layers out: every layer then turns positions and sees all tokens",
            )
