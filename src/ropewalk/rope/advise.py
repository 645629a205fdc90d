"""Is this method good for that length? A few figures per method, a warning where one is out of line, a round theta.

What is known is soft: CodeLlama keeps within the bound of Men et al., Llama 2 Long and ProLong break it a little and
Llama 3.1 by far. So nothing here refuses anything; it says what is unusual, and next to what.
"""

import math
from dataclasses import dataclass

from ropewalk.core.quantity import format_length
from ropewalk.rope.bounds import first_negative, suggest_theta
from ropewalk.rope.frequency import count_whole_turns, plain_inv_freq, wavelengths
from ropewalk.rope.method import BaseRope, Method


@dataclass(frozen=True, slots=True)
class Advice:
    """Figures of a method at one length, and what is unusual about them.

    ``first_negative_tokens`` is None where the bound of Men et al. holds up to the target. ``new_angle_pairs`` counts
    pairs that will see angles at the target which no training at the base's length has shown.
    """

    kind: str
    context_tokens: int
    theta: float
    attention_factor: float
    longest_wavelength_tokens: float
    whole_turn_pairs: int
    new_angle_pairs: int
    first_negative_tokens: int | None
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Practice:
    """A theta that somebody trained with, at which length."""

    context_tokens: int
    theta: float
    source: str


PRACTICE = (
    Practice(16384, 1e6, "CodeLlama, 2308.12950"),
    Practice(32768, 5e5, "Llama 2 Long, 2309.16039"),
    Practice(32768, 1e6, "EasyContext and AnchorAttention (2411.13476)"),
    Practice(65536, 5e6, "EasyContext, AnchorAttention, SmolLM3"),
    Practice(65536, 8e6, "ProLong, 2410.02660"),
    Practice(131072, 1e7, "AnchorAttention, 2411.13476"),
    Practice(262144, 5e7, "EasyContext, AnchorAttention"),
    Practice(524288, 1.28e8, "ProLong, 2410.02660"),
)


def advise(base: BaseRope, *, method: Method, context_tokens: int) -> Advice:
    """The figures of a completed ``method`` at ``context_tokens``, with warnings."""
    inv_freq = method.inv_freq(base.theta, base.head_dim)
    # A pair is new where the target shows it larger angles than the base did, and not yet a whole turn.
    seen = plain_inv_freq(base.theta, base.head_dim) * base.context_tokens
    new = (inv_freq * context_tokens > seen * (1 + 1e-9)) & (seen < 2 * math.pi)
    turning = inv_freq[inv_freq > 0]
    negative = first_negative(inv_freq, context_tokens)
    return Advice(
        kind=method.kind,
        context_tokens=context_tokens,
        theta=method.final_theta(base.theta),
        attention_factor=method.attention_factor,
        longest_wavelength_tokens=float(wavelengths(turning)[-1]),
        whole_turn_pairs=count_whole_turns(inv_freq, context_tokens),
        new_angle_pairs=int(new.sum()),
        first_negative_tokens=negative,
        warnings=tuple(_warn(method, base, context_tokens, negative=negative)),
    )


def _warn(method: Method, base: BaseRope, context_tokens: int, *, negative: int | None) -> list[str]:
    warnings = []
    stretched = context_tokens > base.context_tokens
    if negative is not None and stretched:
        theta = suggest_theta(
            base.theta, head_dim=base.head_dim, train_tokens=base.context_tokens, context_tokens=context_tokens
        )
        warnings.append(
            f"from a distance of {negative} tokens on, similar tokens no longer attract (2405.14591); "
            f"a theta of {theta:g} keeps them attractive up to {format_length(context_tokens)}"
        )
    if stretched and method.kind == "unchanged":
        warnings.append(
            f"positions beyond {format_length(base.context_tokens)} are new to the base and nothing shortens them"
        )
    return warnings
