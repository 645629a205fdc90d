"""Figures of one method on one base at one length, per pair and in total, with warnings for unusual values.

The published bounds are soft. CodeLlama stays within the bound of Men et al.; Llama 2 Long and ProLong exceed it a
little, Llama 3.1 by far. So this file refuses nothing. It reports which values are unusual and compares them with
published models.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from ropewalk.core.quantity import format_length
from ropewalk.rope.bounds import attraction, first_negative, suggest_theta
from ropewalk.rope.frequency import count_whole_turns, wavelengths
from ropewalk.rope.method import BaseRope, Method
from ropewalk.rope.uniform import Unchanged


@dataclass(frozen=True, slots=True)
class Advice:
    """The figures of a method at one length, and warnings for unusual values.

    ``scales`` are the base's frequencies divided by the new ones, one per pair: this many tokens now turn the pair as
    far as one token did before (infinite where a pair no longer turns). ``new_angle_pairs`` counts the pairs that meet
    angles at the target which no training at the base's length has shown. ``reach_tokens`` is the wavelength of the
    first pair that made no whole turn in the base's context (Liu et al., 2310.05209); None if all pairs made one.
    ``first_negative_tokens`` is None where the bound of Men et al. holds up to the target. The two attractions are
    means of B(m) / B(0) over the last quarter of the base's context and of the target.
    """

    kind: str
    context_tokens: int
    theta: float
    attention_factor: float
    scales: tuple[float, ...]
    longest_wavelength_tokens: float
    whole_turn_pairs: int
    new_angle_pairs: int
    reach_tokens: float | None
    first_negative_tokens: int | None
    near_attraction: float
    far_attraction: float
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Practice:
    """A theta that a published model was trained with, and the length of that training."""

    context_tokens: int
    theta: float
    source: str


PRACTICE = (
    Practice(16384, 1e6, "CodeLlama, 2308.12950"),
    Practice(32768, 5e5, "Llama 2 Long, 2309.16039"),
    Practice(32768, 1e6, "EasyContext and AnchorAttention, 2411.13476"),
    Practice(32768, 2e6, "SmolLM3"),
    Practice(65536, 5e6, "EasyContext, AnchorAttention, SmolLM3"),
    Practice(65536, 8e6, "ProLong, 2410.02660"),
    Practice(131072, 5e6, "Qwen2.5-1M, 2501.15383"),
    Practice(131072, 1e7, "AnchorAttention, 2411.13476"),
    Practice(262144, 1e7, "Qwen2.5-1M, 2501.15383"),
    Practice(262144, 5e7, "EasyContext, AnchorAttention"),
    Practice(524288, 1.28e8, "ProLong, 2410.02660"),
)


def trained_inv_freq(base: BaseRope) -> Float64[np.ndarray, "half"]:
    """Radians per token of each pair as the base was trained with them, at its own length."""
    running = base.running or Unchanged()
    return running.inv_freq_at(base.context_tokens, base.theta, base.head_dim)


def practice_at(context_tokens: int) -> tuple[Practice, ...]:
    """The published entries for the shortest listed length not below ``context_tokens``, else for the longest one."""
    lengths = [entry.context_tokens for entry in PRACTICE]
    chosen = min((length for length in lengths if length >= context_tokens), default=max(lengths))
    return tuple(entry for entry in PRACTICE if entry.context_tokens == chosen)


def advise(base: BaseRope, *, method: Method, context_tokens: int) -> Advice:
    """Return the figures of a completed ``method`` in a document of ``context_tokens`` tokens, with warnings."""
    inv_freq = method.inv_freq_at(context_tokens, base.theta, base.head_dim)
    trained = trained_inv_freq(base)
    seen = trained * base.context_tokens
    # A pair is new if the target shows it larger angles than the base did and it made no whole turn in the base's
    # context.
    new = (inv_freq * context_tokens > seen * (1 + 1e-9)) & (seen < 2 * math.pi)
    turning, unknown = inv_freq[inv_freq > 0], wavelengths(inv_freq)[seen < 2 * math.pi]
    with np.errstate(divide="ignore", invalid="ignore"):
        scales = np.where(trained == inv_freq, 1.0, trained / inv_freq)
    negative = first_negative(inv_freq, context_tokens)
    return Advice(
        kind=method.kind,
        context_tokens=context_tokens,
        theta=method.final_theta(base.theta),
        attention_factor=method.attention_factor,
        scales=tuple(scales.tolist()),
        longest_wavelength_tokens=float(wavelengths(turning)[-1]) if len(turning) else math.inf,
        whole_turn_pairs=count_whole_turns(inv_freq, context_tokens),
        new_angle_pairs=int(new.sum()),
        reach_tokens=float(unknown[0]) if len(unknown) else None,
        first_negative_tokens=negative,
        near_attraction=_last_quarter(inv_freq, base.context_tokens),
        far_attraction=_last_quarter(inv_freq, context_tokens),
        warnings=tuple(_warn(method, base, context_tokens, negative=negative)),
    )


def _last_quarter(inv_freq: Float64[np.ndarray, "half"], tokens: int) -> float:
    return float(attraction(inv_freq, np.array([tokens * 3 // 4, tokens]))[0])


def _warn(method: Method, base: BaseRope, context_tokens: int, *, negative: int | None) -> list[str]:
    warnings = []
    stretched = context_tokens > base.context_tokens
    if negative is not None and stretched:
        warning = f"from a distance of {negative} tokens, similar tokens no longer attract each other (2405.14591)"
        if base.running is None:
            theta = suggest_theta(
                base.theta, head_dim=base.head_dim, train_tokens=base.context_tokens, context_tokens=context_tokens
            )
            warning += f"; with a theta of {theta:g} they attract each other up to {format_length(context_tokens)}"
        warnings.append(warning)
    if stretched and method in (base.running, Unchanged()):
        warnings.append(
            f"the base has not seen positions above {format_length(base.context_tokens)}, and this method does not "
            "scale them down"
        )
    return warnings
