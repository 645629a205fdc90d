"""Methods with one rule for all pairs: no change, a larger theta, a division, pairs that stand still, no rotation.

Each docstring describes the effect on short context and the readers that support the method. ``ntk`` needs no scaling
key in config.json: it *is* a change of theta.
"""

import math
from dataclasses import replace
from typing import Annotated, Any, Literal

import numpy as np
from jaxtyping import Float64
from pydantic import BeforeValidator, Field, WithJsonSchema

from ropewalk.core.error import UserError
from ropewalk.core.quantity import NUMBER_TEXT, PositiveCount, format_length
from ropewalk.rope.bounds import suggest_theta
from ropewalk.rope.frequency import ntk_theta, plain_inv_freq
from ropewalk.rope.method import (
    LARGEST_THETA,
    BaseRope,
    Factor,
    Method,
    Stretch,
    ThetaValue,
    check_head,
    check_length,
    filled,
    refuse_shorter,
    refuse_stacking,
)


class Unchanged(Method):
    """What the base runs, also where that is scaled already: ``complete`` then gives the base's own method.

    It costs nothing but does not help: beyond the trained length every slow pair meets angles that it has never seen.
    """

    kind: Literal["unchanged"] = "unchanged"

    def complete(self, base: BaseRope, context_tokens: int) -> Method:
        """Return the base's method, or plain RoPE. Any length is allowed, also one below the base's."""
        check_head(base)
        check_length(context_tokens)
        return base.running or self

    def inv_freq(self, theta: float, head_dim: int) -> Float64[np.ndarray, "half"]:
        return plain_inv_freq(theta, head_dim)

    def to_hf(self, theta: float) -> dict[str, Any]:
        return {"rope_type": "default", "rope_theta": theta}


def _open_auto(value: Any) -> Any:
    return None if value == "auto" else value


AutoTheta = Annotated[
    ThetaValue | None,
    BeforeValidator(_open_auto),
    WithJsonSchema({"anyOf": [{"type": "number", "exclusiveMinimum": 1}, {"const": "auto"}, NUMBER_TEXT]}),
]


def require_usable(theta: float, base: BaseRope, context_tokens: int) -> float:
    """``theta``. Raises UserError where it is too large to be one, as from a base of a few tokens."""
    if theta <= LARGEST_THETA:
        return theta
    raise UserError(
        "no theta is large enough for this length",
        where="context_length",
        why=f"from {format_length(base.context_tokens)} to {format_length(context_tokens)} tokens the method needs "
        f"{theta:.3g}, and the largest theta is {LARGEST_THETA:g}",
        fix="give a shorter length first; a base's max_position_embeddings of a few tokens is likely wrong",
    )


class Theta(Stretch):
    """Adjusted base frequency: pair i turns by ``theta' ** (-2 i / d)`` (Llama 2 Long, 2309.16039; Code Llama).

    Slow pairs slow down most; the fastest one stays. Every engine reads it, since it is one number. It needs training
    at the new length; after it, nearly all short-context quality returns. ``theta: auto`` takes the least round theta
    that both published bounds find large enough for the target (``bounds.suggest_theta``). On a base that is scaled
    already, the scaling stays and its theta grows.
    """

    kind: Literal["theta"] = "theta"
    theta: AutoTheta
    """The new base frequency, above the base's; ``auto`` takes the least that both published bounds allow."""

    def inv_freq(self, theta: float, head_dim: int) -> Float64[np.ndarray, "half"]:
        return plain_inv_freq(filled(self.theta), head_dim)

    def to_hf(self, theta: float) -> dict[str, Any]:
        return {"rope_type": "default", "rope_theta": filled(self.theta)}

    def _open(self, base: BaseRope, context_tokens: int) -> dict[str, Any]:
        theta = self.theta or suggest_theta(
            base.theta, head_dim=base.head_dim, train_tokens=base.context_tokens, context_tokens=context_tokens
        )
        return {"theta": require_usable(theta, base, context_tokens)}

    def _compose(self, running: Method, base: BaseRope, context_tokens: int) -> Method:
        if not isinstance(running, Stretch):
            raise refuse_stacking(self, running, untrained=base.is_untrained)
        if self.theta is None:
            raise UserError(
                "theta: auto supports only plain RoPE",
                where="rope.theta",
                why=f"the base's positions are scaled already ({running.kind}), and the bounds do not hold for them",
                fix=f"give a number above {base.theta:g}",
            )
        return running.model_copy(update={"theta": self.theta})


class Ntk(Stretch):
    """NTK-aware interpolation: ``theta' = theta * factor ** (d / (d - 2))``; the lowest frequency is ``factor`` lower.

    From a forum post of bloc97 (2023), analysed in YaRN (2309.00071). It works a little without training. With training
    it usually changes less than ``theta`` does, so the reach is shorter. Every engine reads it: config.json gets a
    theta. That theta is fixed; with ``dynamic`` it depends on the length of each document.
    """

    kind: Literal["ntk"] = "ntk"
    factor: Factor | None = None
    """How much lower the lowest frequency is; null: target over the base's context."""

    def inv_freq(self, theta: float, head_dim: int) -> Float64[np.ndarray, "half"]:
        return plain_inv_freq(filled(self.theta), head_dim)

    def to_hf(self, theta: float) -> dict[str, Any]:
        return {"rope_type": "default", "rope_theta": filled(self.theta)}

    def _open(self, base: BaseRope, context_tokens: int) -> dict[str, Any]:
        check_pairs(self, base)
        factor = self.factor or context_tokens / base.context_tokens
        theta = ntk_theta(base.theta, base.head_dim, factor)
        if self.theta is not None and not math.isclose(self.theta, theta, rel_tol=1e-9):
            raise UserError(
                "ntk computes theta from the factor",
                where="rope.theta",
                why=f"a factor of {factor:g} changes {base.theta:g} to {theta:.8g}, but {self.theta:g} was given",
                fix="remove theta, or use kind: theta",
            )
        return {"factor": factor, "theta": require_usable(theta, base, context_tokens)}


class Linear(Stretch):
    """Position interpolation: every frequency divided by ``factor`` (Chen et al., 2306.15595; kaiokendev).

    No angle is new, so a thousand steps of training are enough. But the fastest pairs are squeezed too, which costs
    quality in short context: BoolQ of LLaMA 7B fell from 76.1 to 69.8 at a factor of 8. Every engine reads it. On a
    base that is divided already, ``factor`` counts from the base's original length. config.json has no key for that
    length: published bases write either the original or the divided length as their context. Where no other key decides
    this, the error asks the user.
    """

    kind: Literal["linear"] = "linear"
    factor: Factor | None = None
    """What positions are divided by; null: target over the base's context."""
    original_tokens: PositiveCount | None = None
    """The length that ``factor`` counts from; the context of a plain base."""

    def inv_freq(self, theta: float, head_dim: int) -> Float64[np.ndarray, "half"]:
        return plain_inv_freq(self.final_theta(theta), head_dim) / filled(self.factor)

    def to_hf(self, theta: float) -> dict[str, Any]:
        return {"rope_type": "linear", "rope_theta": self.final_theta(theta), "factor": filled(self.factor)}

    def _open(self, base: BaseRope, context_tokens: int) -> dict[str, Any]:
        original = self.original_tokens or base.context_tokens
        return {"original_tokens": original, "factor": max(1.0, context_tokens / original)}

    def _compose(self, running: Method, base: BaseRope, context_tokens: int) -> Method:
        if isinstance(running, Linear):
            settled = settle_linear(base, self)
            if is_unclear(settled.running) and self.factor is None:
                raise ask_original(settled, context_tokens)
            if context_tokens < settled.context_tokens:
                raise refuse_shorter(settled, context_tokens)
            running = filled(settled.running)
        return super()._compose(running, base, context_tokens)

    def _reopen(self, values: dict[str, Any], base: BaseRope, context_tokens: int) -> dict[str, Any]:
        if "original_tokens" not in values:
            return {}
        return {"factor": max(values["factor"], context_tokens / values["original_tokens"])}


def settle_linear(base: BaseRope, asked: Method | None) -> BaseRope:
    """``base`` with the original length that ``asked`` names, where its own config.json does not give it."""
    original = asked.original_tokens if isinstance(asked, Linear) else None
    if original is None or not isinstance(base.running, Linear) or not is_unclear(base.running):
        return base
    factor = filled(base.running.factor)
    # Here the file's context is the original length: the division is not counted in it yet.
    tokens = round(original * factor) if original == base.context_tokens else base.context_tokens
    return replace(base, running=base.running.model_copy(update={"original_tokens": original}), context_tokens=tokens)


def is_unclear(running: Method | None) -> bool:
    """Whether the length that a division counts from is missing."""
    return isinstance(running, Linear) and running.original_tokens is None and filled(running.factor) > 1


def ask_original(base: BaseRope, context_tokens: int) -> UserError:
    """The error that asks the user whether the context of a base is divided already; published configs differ."""
    assert isinstance(base.running, Linear)
    factor, told = filled(base.running.factor), base.context_tokens
    divided = round(told / factor)
    return UserError(
        "the context length of this base is ambiguous",
        where="max_position_embeddings of the base's config.json",
        why=f"its positions are divided by {factor:g}, and {format_length(told)} may be the length after that (the "
        f"original is {format_length(divided)}, and {format_length(context_tokens)} needs a factor of "
        f"{context_tokens / divided:g}) or before (it reads {format_length(round(told * factor))} already, and "
        f"{format_length(context_tokens)} needs {max(factor, context_tokens / told):g}); published models use both",
        fix=f"choose one with rope.kind=linear and rope.original_tokens={divided} or rope.original_tokens={told}, or "
        'with "original_max_position_embeddings" in config.json',
    )


class Proportional(Stretch):
    """p-RoPE: only the ``share`` of the pairs with the highest frequencies turns (Barbero et al., 2410.06205).

    The other pairs carry no position, so no distance can push similar tokens apart. It needs training, because those
    pairs did turn in the base. Short context keeps the fast pairs unchanged. transformers 5 reads it; older readers
    refuse the type.
    """

    kind: Literal["proportional"] = "proportional"
    share: float = Field(gt=0, le=1)
    """Share of the pairs that turn, from the fastest on; the others stand still."""
    factor: Factor = 1.0
    """What the frequencies of turning pairs are divided by."""

    def inv_freq(self, theta: float, head_dim: int) -> Float64[np.ndarray, "half"]:
        # transformers rounds with int(share * head_dim // 2), so this is part of the definition.
        turns = np.arange(head_dim // 2) < int(self.share * head_dim // 2)
        return np.where(turns, plain_inv_freq(self.final_theta(theta), head_dim) / self.factor, 0.0)

    def to_hf(self, theta: float) -> dict[str, Any]:
        parameters = {
            "rope_type": "proportional",
            "rope_theta": self.final_theta(theta),
            "partial_rotary_factor": self.share,
        }
        # transformers 5.23 applies the key but warns of it, so it is written only where it has an effect.
        return parameters if self.factor == 1 else parameters | {"factor": self.factor}

    def _open(self, base: BaseRope, context_tokens: int) -> dict[str, Any]:
        return {}

    def _compose(self, running: Method, base: BaseRope, context_tokens: int) -> Method:
        if isinstance(running, Proportional) and self.share > running.share:
            raise UserError(
                "the share must not increase",
                where="rope.share",
                why=f"{self.share:g} is above the base's {running.share:g}: the model has learned not to rotate "
                "those pairs",
                fix=f"give a share of at most {running.share:g}",
            )
        return super()._compose(running, base, context_tokens)


class Nope(Method):
    """No rotation: order comes from the causal mask alone (Kazemnejad et al., 2305.19466).

    For some layers of a pattern, together with other layers that use RoPE. No length is new to it. But a model that was
    trained with RoPE must be trained again for billions of tokens. transformers 5 reads it, natively in SmolLM3's
    class.
    """

    kind: Literal["nope"] = "nope"

    def complete(self, base: BaseRope, context_tokens: int) -> Method:
        check_head(base)
        check_length(context_tokens)
        return self

    def inv_freq(self, theta: float, head_dim: int) -> Float64[np.ndarray, "half"]:
        return np.zeros(head_dim // 2)

    def to_hf(self, theta: float) -> dict[str, Any]:
        """A proportional rope in which no pair turns; readers without that type refuse it."""
        return {"rope_type": "proportional", "rope_theta": theta, "partial_rotary_factor": 0.0}


def check_pairs(method: Method, base: BaseRope) -> None:
    """Raise UserError where a head has only one pair: then no pair can be slower than another."""
    if base.head_dim == 2:
        raise UserError(
            f"{method.kind} needs two pairs", where="rope.kind", why="head_dim is 2", fix="use kind: linear"
        )
