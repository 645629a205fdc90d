"""What every way to stretch RoPE answers, and what no way can do.

A method is written with open fields (``{kind: yarn}``), completed once against a base model, and then knows its
frequencies, its attention factor and its Hugging Face spelling. A completed method carries its own theta, so it does
not matter whether the base's or the final theta is handed to it afterwards.
"""

import math
from abc import abstractmethod
from typing import Annotated, Any, ClassVar, TypeVar

import numpy as np
from jaxtyping import Float64
from pydantic import Field

from ropewalk.core.error import UserError
from ropewalk.core.quantity import format_length
from ropewalk.core.spec import Spec
from ropewalk.rope.frequency import BaseRope

Factor = Annotated[float, Field(ge=1)]
ThetaValue = Annotated[float, Field(gt=1)]
Value = TypeVar("Value")


class Method(Spec):
    """One way to turn positions into angles. ``theta`` in its arguments is the base's."""

    kind: str
    depends_on_length: ClassVar[bool] = False
    """Whether a document's own length decides its frequencies (``inv_freq_at``)."""

    @abstractmethod
    def complete(self, base: BaseRope, context_tokens: int) -> "Method":
        """This method with every open field filled for stretching ``base`` to ``context_tokens``.

        Raises UserError where base, method and length do not go together.
        """

    @abstractmethod
    def inv_freq(self, theta: float, head_dim: int) -> Float64[np.ndarray, "half"]:
        """Radians per token of each pair."""

    def inv_freq_at(self, tokens: int, theta: float, head_dim: int) -> Float64[np.ndarray, "half"]:
        """Radians per token of each pair in a document of ``tokens``; only some methods look at the length."""
        return self.inv_freq(theta, head_dim)

    @abstractmethod
    def to_hf(self, theta: float) -> dict[str, Any]:
        """``rope_parameters`` of a config.json, in the dialect of transformers 5."""

    def final_theta(self, theta: float) -> float:
        """The theta that the extended model's config carries."""
        return theta

    @property
    def attention_factor(self) -> float:
        """What cosine and sine are both multiplied by, so that scores get its square."""
        return 1.0


class Stretch(Method):
    """A method that changes something. ``theta`` None keeps the base's."""

    theta: ThetaValue | None = None

    def complete(self, base: BaseRope, context_tokens: int) -> "Stretch":
        """Raises UserError for an odd head_dim, a scaled base, a shorter target, or a theta below the base's."""
        _check_stretch(self, base, context_tokens)
        opened = {"theta": base.theta, **self._open(base, context_tokens)}
        return type(self).model_validate(opened | self.model_dump(exclude_none=True))

    def final_theta(self, theta: float) -> float:
        return self.theta or theta

    @abstractmethod
    def _open(self, base: BaseRope, context_tokens: int) -> dict[str, Any]:
        """Values for the fields that the recipe left open."""


def filled(value: Value | None) -> Value:
    """A field of a completed method."""
    assert value is not None, "complete the method first"
    return value


def check_head(base: BaseRope) -> None:
    """Raise UserError unless a head can be split into pairs."""
    if base.head_dim < 2 or base.head_dim % 2:
        raise UserError(
            "RoPE turns pairs of dimensions",
            where="head_dim of the base's config.json",
            why=f"head_dim is {base.head_dim}, which is not an even number of dimensions",
            fix="choose a base whose head_dim is even",
        )


def _check_stretch(method: Stretch, base: BaseRope, context_tokens: int) -> None:
    check_head(base)
    if base.parameters is not None:
        running = base.parameters.get("rope_type", "unknown")
        raise UserError(
            "methods cannot be stacked yet",
            where="rope.kind",
            why=f"the base's positions are scaled already ({running}), and {method.kind} would come on top of that",
            fix="use kind: unchanged, or a base with plain RoPE",
        )
    if context_tokens < base.context_tokens:
        raise UserError(
            "the target is shorter than what the base can do",
            where="context",
            why=f"{format_length(context_tokens)} tokens is below the base's {format_length(base.context_tokens)}",
            fix=f"ask for at least {format_length(base.context_tokens)}, or use kind: unchanged",
        )
    if method.theta is not None and not (math.isfinite(method.theta) and method.theta >= base.theta):
        raise UserError(
            "theta may only grow",
            where="rope.theta",
            why=f"{method.theta:g} is below the base's {base.theta:g}: that reaches far in loss, not in retrieval",
            fix=f"give a theta above {base.theta:g}, or leave it out",
        )
