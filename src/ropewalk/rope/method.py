"""The interface of all methods that stretch RoPE, and the checks that hold for every method.

A recipe writes a method with open fields (``{kind: yarn}``). ``complete`` fills them once for a base model; then the
method has its frequencies, its attention factor and its Hugging Face form. A completed method carries its own theta, so
callers may pass the base's or the final theta. A base may run a method already. Then the same kind counts again from
the base's original length. All other kinds except ``theta`` are refused, so nothing is scaled twice in silence.
"""

import math
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import numpy as np
from jaxtyping import Float64
from pydantic import Field

from ropewalk.core.error import UserError
from ropewalk.core.quantity import format_length
from ropewalk.core.spec import Spec

LARGEST_FACTOR, LARGEST_THETA, LARGEST_TOKENS = 1e9, 1e30, 1 << 24
"""transformers computes in float32: theta to a power near 1 must stay finite, and positions must differ as float32."""
Factor = Annotated[float, Field(ge=1, le=LARGEST_FACTOR)]
ThetaValue = Annotated[float, Field(gt=1, le=LARGEST_THETA)]
Value = TypeVar("Value")

_ROUNDED_PLACES = 3
_CHOICES = (
    *("fixed_attention_factor", "mscale", "mscale_all_dim"),
    *("beta_fast", "beta_slow", "truncate", "low_freq_factor", "high_freq_factor"),
)


@dataclass(frozen=True, slots=True)
class BaseRope:
    """The position method of a base model: plain RoPE over ``theta``, or the completed method that it is ``running``.

    ``context_tokens`` is the length it reads, mostly its ``max_position_embeddings``; ``theta`` is from its
    config.json.
    """

    theta: float
    head_dim: int
    context_tokens: int
    running: "Method | None" = None

    @property
    def is_untrained(self) -> bool:
        """Whether the base runs a scaling that its weights were never trained with: it begins where their context ends.

        Qwen documents such a block (yarn, factor 4 over 32Ki, in a model of 32Ki) for serving only.
        """
        return self.running is not None and self.running.begins_tokens >= self.context_tokens

    @property
    def turns(self) -> bool:
        """Whether any layer of the base has RoPE."""
        return self.running is None or self.running.kind != "nope"


class Method(Spec):
    """One way to turn positions into angles. ``theta`` in its arguments is the base's."""

    kind: str
    """Which method it is."""

    @property
    def depends_on_length(self) -> bool:
        """Whether the length of a document decides its frequencies (``inv_freq_at``)."""
        return False

    @property
    def begins_tokens(self) -> int:
        """The length that a model was trained with before this completed method; 0 where it is not recorded."""
        return 0

    @abstractmethod
    def complete(self, base: BaseRope, context_tokens: int) -> "Method":
        """This method with every open field filled for stretching ``base`` to ``context_tokens``.

        Raises UserError where base, method and length do not fit together.
        """

    @abstractmethod
    def inv_freq(self, theta: float, head_dim: int) -> Float64[np.ndarray, "half"]:
        """Radians per token of each pair, as a model is built with them.

        Where they depend on the length, these are the frequencies of a document within the original context.
        """

    def inv_freq_at(self, tokens: int, theta: float, head_dim: int) -> Float64[np.ndarray, "half"]:
        """Radians per token of each pair in a document of ``tokens`` tokens; only some methods depend on the length."""
        return self.inv_freq(theta, head_dim)

    @abstractmethod
    def to_hf(self, theta: float) -> dict[str, Any]:
        """``rope_parameters`` of a config.json, in the format of transformers 5."""

    def config_tokens(self, context_tokens: int) -> int:
        """``max_position_embeddings`` of a model stretched to ``context_tokens``; only ``dynamic`` changes it."""
        return context_tokens

    def final_theta(self, theta: float) -> float:
        """The theta in the extended model's config."""
        return theta

    @property
    def attention_factor(self) -> float:
        """The factor of both cosine and sine; attention scores get its square."""
        return 1.0

    def as_base(self, theta: float, *, head_dim: int, context_tokens: int) -> BaseRope:
        """The base of the next stretch, after this completed method has stretched a base to ``context_tokens``."""
        plain = self.to_hf(theta)["rope_type"] == "default"
        tokens = self.config_tokens(context_tokens)
        return BaseRope(self.final_theta(theta), head_dim, tokens, None if plain else self)


class Stretch(Method):
    """A method that changes something. ``theta`` None keeps the base's."""

    theta: ThetaValue | None = None
    """Base frequency; null keeps the base's."""

    def complete(self, base: BaseRope, context_tokens: int) -> Method:
        """Complete the method for ``base``.

        Raises UserError for an odd head_dim, a shorter target, a theta below the base's, or a base whose own scaling
        does not fit this method.
        """
        _check_stretch(self, base, context_tokens)
        if base.running is not None:
            return self._compose(base.running, base, context_tokens)
        opened = {"theta": base.theta, **self._open(base, context_tokens)}
        return type(self).model_validate(opened | self.model_dump(exclude_none=True))

    def final_theta(self, theta: float) -> float:
        return self.theta or theta

    @abstractmethod
    def _open(self, base: BaseRope, context_tokens: int) -> dict[str, Any]:
        """Values for the fields that the recipe left open, on plain RoPE."""

    def _compose(self, running: Method, base: BaseRope, context_tokens: int) -> Method:
        """This method on a base that is scaled already. Raises UserError unless the kind can continue that scaling."""
        if type(running) is not type(self):
            raise refuse_stacking(self, running, untrained=base.is_untrained)
        inherited = running.model_dump(exclude_none=True, exclude=follows_formula(running))
        given = self.model_dump(exclude_unset=True, exclude_none=True)
        opened = self._reopen(inherited | given, base, context_tokens)
        composed = type(self).model_validate(inherited | opened | given)
        _check_growth(running, composed)
        return composed

    def _reopen(self, values: dict[str, Any], base: BaseRope, context_tokens: int) -> dict[str, Any]:
        """The values of the base's own ``values`` that a longer target changes; none unless a method overrides this."""
        return {}


def filled(value: Value | None) -> Value:
    """The value of a field of a completed method; fails where the method is not completed."""
    assert value is not None, "complete the method first"
    return value


def follows_formula(method: Method) -> set[str]:
    """Fields of a completed method that only repeat the result of its formula; a longer target computes them again.

    A value counts as the formula's if it is the same number, or that number rounded to three places or more.
    """
    field = "fixed_attention_factor"
    fixed = getattr(method, field, None)
    if fixed is None:
        return set()
    formula = method.model_copy(update={field: None}).attention_factor
    places = len(f"{fixed!r}".partition(".")[2])
    rounded = places >= _ROUNDED_PLACES and round(formula, places) == fixed
    return {field} if rounded or math.isclose(fixed, formula, rel_tol=1e-6) else set()


def describe(base: BaseRope, method: Method) -> str:
    """The changes by the completed ``method`` in one line: ``llama3 factor 8 -> 32 over the original 8Ki``."""
    before = base.running.model_dump(exclude_none=True) if base.running else {"theta": base.theta}
    after = {"theta": method.final_theta(base.theta)} | method.model_dump(exclude_none=True)
    if method.kind == "nope" and not base.turns:
        return "no RoPE, as before"
    words = [method.kind]
    for name in ("factor", "share", "theta"):
        old, new = before.get(name), after.get(name)
        same = name == "theta" and new == old
        if new is None or (same and name != method.kind):
            continue
        change = f"{new:g}" if old in (None, new) else f"{old:g} -> {new:g}"
        change += " as before" if same else ""
        words.append(change if name == method.kind else f"{name} {change}")
    if "original_tokens" in after:
        words.append(f"over the original {format_length(after['original_tokens'])}")
    return ", ".join([" ".join(words), *_describe_choices(method, before, after)])


def _describe_choices(method: Method, before: dict[str, Any], after: dict[str, Any]) -> Iterator[str]:
    """The figures that neither the target nor a default decides: the recipe's own and those kept from the base."""
    for name in _CHOICES:
        old, new = before.get(name), after.get(name)
        field = type(method).model_fields.get(name)
        if field is None or new is None or (new == field.default and old in (None, new)):
            continue
        word = name.removeprefix("fixed_")
        told, former = (f"{value:.6g}" if isinstance(value, float) else f"{value}" for value in (new, old))
        yield f"{word} {told} as before" if new == old else f"{word} {'' if old is None else f'{former} -> '}{told}"


def refuse_stacking(method: Method, running: Method, *, untrained: bool = False) -> UserError:
    """The error for a method on top of another one, which the weights may never have been trained with."""
    ways = ["kind: unchanged"]
    if isinstance(running, Stretch):
        ways.insert(0, f"kind: {running.kind}, which counts from the base's original length")
        ways.insert(1, f"kind: theta with a theta above {running.final_theta(0.0):g}")
    if untrained:
        ways.append(
            "remove rope_scaling (or rope_parameters) from config.json if the weights were trained without it: its "
            "original length is the base's whole context"
        )
    return UserError(
        f"{method.kind} cannot be applied on top of {running.kind}",
        where="rope.kind",
        why=f"the base's positions are scaled already ({running.kind}), and {method.kind} would scale them once more",
        fix=f"use {', or '.join(ways)}",
    )


def check_head(base: BaseRope) -> None:
    """Raise UserError unless a head can be split into pairs."""
    if base.head_dim < 2 or base.head_dim % 2:
        raise UserError(
            "RoPE rotates pairs of dimensions",
            where="head_dim of the base's config.json",
            why=f"head_dim is {base.head_dim}, which is not an even number of dimensions",
            fix="choose a base whose head_dim is even",
        )


def check_length(context_tokens: int) -> None:
    """Raise UserError for a target so long that float32 cannot represent each position."""
    if context_tokens > LARGEST_TOKENS:
        raise UserError(
            "the target is too long",
            where="context_length",
            why=f"it is {context_tokens:.3g}, and beyond {format_length(LARGEST_TOKENS)} float32, in which a model "
            "computes angles, cannot represent every position",
            fix=f"give at most {format_length(LARGEST_TOKENS)}",
        )


def refuse_shorter(base: BaseRope, context_tokens: int) -> UserError:
    """The error for a target that is shorter than the base's context."""
    return UserError(
        "the target is shorter than the base's context",
        where="context_length",
        why=f"{format_length(context_tokens)} tokens is below the base's {format_length(base.context_tokens)}",
        fix=f"give at least {format_length(base.context_tokens)}, or use kind: unchanged",
    )


def _check_stretch(method: Stretch, base: BaseRope, context_tokens: int) -> None:
    check_head(base)
    check_length(context_tokens)
    if context_tokens < base.context_tokens:
        raise refuse_shorter(base, context_tokens)
    if method.theta is not None and not (math.isfinite(method.theta) and method.theta >= base.theta):
        raise UserError(
            "theta must not decrease",
            where="rope.theta",
            why=f"{method.theta:g} is below the base's {base.theta:g}: a smaller theta extends the loss, but not "
            "retrieval",
            fix=f"give a theta above {base.theta:g}, or remove it",
        )


def _check_growth(running: Method, composed: Method) -> None:
    """Raise UserError where a composed method loses values that the base was trained with."""
    before, after = running.model_dump(), composed.model_dump()
    if after.get("factor", 1) < (least := before.get("factor", 1)):
        raise UserError(
            "the factor must not decrease",
            where="rope.factor",
            why=f"it is relative to the base's original length; {after['factor']:g} is below the base's own {least:g}",
            fix=f"give a factor of at least {least:g}, or remove it",
        )
    ours, theirs = after.get("original_tokens"), before.get("original_tokens")
    if ours is not None and theirs is not None and ours != theirs:
        raise UserError(
            "original_tokens differs from the base's original length",
            where="rope.original_tokens",
            why=f"the base's original length is {format_length(theirs)}, and {format_length(ours)} was given",
            fix="remove original_tokens",
        )
