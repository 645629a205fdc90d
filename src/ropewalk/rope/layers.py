"""Positions per layer: a short pattern of rules in a recipe gives one completed value per layer of a model.

Hybrid models are such patterns: three windowed layers and one full layer whose RoPE alone is stretched (OLMo 3), every
fourth layer without RoPE (SmolLM3), or windows with RoPE beside full layers without RoPE (RNoPE). A layer whose window
is no longer than the base's context meets no new distance, so it needs no stretching.
"""

from collections.abc import Sequence
from itertools import groupby, pairwise
from typing import Annotated, Any, Literal, cast

import numpy as np
from jaxtyping import Float64
from pydantic import BeforeValidator, model_validator

from ropewalk.core.error import UserError
from ropewalk.core.quantity import PositiveCount, format_count, format_length
from ropewalk.core.spec import Spec
from ropewalk.rope.method import BaseRope, describe
from ropewalk.rope.scaling import Nope, Rope, Unchanged

MLP = "mlp"
"""The mixer of a layer that has neither attention nor a recurrence."""
_FEW_RUNS = 4
"""Of equal layers, so many runs are told one by one."""
FIRE_UNITS = 32
"""Hidden units of the small network of a layer with ``bias: fire``."""


def _name_kind(value: Any) -> Any:
    """``rope: nope`` for ``rope: {kind: nope}``."""
    return {"kind": value} if isinstance(value, str) else value


class LayerRule(Spec):
    """One line of a recipe's pattern; what it leaves out is the stage's ``rope`` over all tokens."""

    rope: Annotated[Rope, BeforeValidator(_name_kind, json_schema_input_type=Rope | str)] | None = None
    """The line's own method, or its name; null: the stage's."""
    window: PositiveCount | None = None
    """Tokens that a query sees, itself included."""
    temperature: Literal["log_n"] | None = None
    """``log_n``: beyond the base's context, scores grow with the logarithm of a query's position."""
    bias: Literal["alibi", "fire"] | None = None
    """Added to scores by distance; on a GPU only."""
    mixer: Literal["unchanged", "gated_delta"] = "unchanged"
    """``gated_delta``: a gated delta net, which has no positions, takes the place of softmax attention (an
    experiment)."""

    @model_validator(mode="after")
    def _check_mixer(self) -> "LayerRule":
        given = [key for key in ("rope", "window", "temperature", "bias") if getattr(self, key) is not None]
        if self.mixer != "unchanged" and given:
            raise ValueError(f"mixer: a {self.mixer} layer has no positions, so remove {', '.join(given)} of its line")
        return self


class LayerPosition(Spec):
    """The positions of one layer: a completed method over the base's ``theta``, a window, a temperature and a bias."""

    rope: Rope
    theta: float
    window_tokens: PositiveCount | None = None
    log_n_tokens: PositiveCount | None = None
    """Queries at position p >= this are multiplied by ln(p + 1) / ln(this)."""
    bias: Literal["alibi", "fire"] | None = None
    mixer: str | None = None
    """The recurrence that runs in place of attention, or ``MLP`` where nothing does: such a layer has no positions,
    and nothing to stretch."""
    beside: str | None = None
    """The recurrence that runs beside attention in the same layer, without positions: attention alone is stretched."""

    def inv_freq(self, head_dim: int) -> Float64[np.ndarray, "half"]:
        """Radians per token of each pair, as a model is built with them."""
        return self.rope.inv_freq(self.theta, head_dim)

    def inv_freq_at(self, tokens: int, head_dim: int) -> Float64[np.ndarray, "half"]:
        """Radians per token of each pair in a document of ``tokens``; the same at any length for most methods."""
        return self.rope.inv_freq_at(tokens, self.theta, head_dim)

    @property
    def attention_factor(self) -> float:
        return self.rope.attention_factor

    def as_base(self, *, head_dim: int, context_tokens: int) -> BaseRope:
        """This layer as the base of the next stretch."""
        return self.rope.as_base(self.theta, head_dim=head_dim, context_tokens=context_tokens)


def find_stretched(layers: Sequence[LayerPosition]) -> LayerPosition:
    """The first full-attention layer with RoPE, which a longer context affects most; else one with RoPE, else any."""
    turning = [layer for layer in layers if not isinstance(layer.rope, Nope)]
    full = [layer for layer in turning if layer.window_tokens is None]
    attending = [layer for layer in layers if layer.mixer is None]
    return (full or turning or attending or layers)[0]


def choose_stretched(layers: Sequence[LayerPosition], base_tokens: int) -> list[bool]:
    """Which layers a longer context changes without a pattern: those with full attention and RoPE.

    Where no layer has both, those with RoPE whose window is at least as long as the base's context: it has never cut
    anything, and published files have such windows.
    """
    turning = [not isinstance(layer.rope, Nope) for layer in layers]
    full = [turns and layer.window_tokens is None for turns, layer in zip(turning, layers, strict=True)]
    idle = [turns and (layer.window_tokens or 0) >= base_tokens for turns, layer in zip(turning, layers, strict=True)]
    return full if any(full) else idle


def stretch_layers(
    base: Sequence[LayerPosition],
    pattern: tuple[LayerRule, ...],
    *,
    rope: Rope,
    head_dim: int,
    base_tokens: int,
    context_tokens: int,
) -> tuple[LayerPosition, ...]:
    """One completed value per layer of ``base``, stretched from ``base_tokens`` to ``context_tokens``.

    Without a ``pattern``, ``rope`` applies to the layers of ``choose_stretched``, which lose a window that is shorter
    than the new context, and no other layer changes. A pattern defines every layer and repeats from the first layer on.
    Raises UserError where the number of layers is no multiple of the pattern, a window exceeds the target, a pattern
    meets layers without attention, or no layer would change.
    """
    bases = [layer.as_base(head_dim=head_dim, context_tokens=base_tokens) for layer in base]
    if pattern:
        _require_attention(base)
        _check_pattern(pattern, layers=len(base), context_tokens=context_tokens)
        rules = pattern * (len(base) // len(pattern))
        return tuple(
            LayerPosition(rope=Nope(), theta=own.theta, mixer=rule.mixer)
            if rule.mixer != "unchanged"
            else LayerPosition(
                rope=cast(Rope, (rule.rope or rope).complete(own, context_tokens)),
                theta=own.theta,
                window_tokens=rule.window,
                # A later stage keeps the length from which the first stage applied the temperature.
                log_n_tokens=layer.log_n_tokens or base_tokens if rule.temperature else None,
                bias=rule.bias,
                beside=layer.beside,
            )
            for rule, layer, own in zip(rules, base, bases, strict=True)
        )
    stretched = choose_stretched(base, base_tokens)
    if not any(stretched) and not isinstance(rope, Unchanged):
        if all(isinstance(layer.rope, Nope) for layer in base):
            raise UserError(
                "this base has no positions to change",
                where="rope.kind",
                why=f"no layer of it has RoPE, so {rope.kind} has no angle to change",
                fix="use kind: unchanged: the context length alone is raised, and training on longer texts does the "
                "rest",
            )
        raise UserError(
            "no layer of this base can be extended",
            where="rope.kind",
            why="every layer has a window or no RoPE",
            fix="use kind: unchanged, or choose with layers: the layers with full attention",
        )
    return tuple(
        _stretch(layer, rope.complete(own, context_tokens), context_tokens) if changes else layer
        for layer, own, changes in zip(base, bases, stretched, strict=True)
    )


def _stretch(layer: LayerPosition, rope: Any, context_tokens: int) -> LayerPosition:
    idle = layer.window_tokens is not None and layer.window_tokens >= context_tokens
    return layer.model_copy(update={"rope": rope, "window_tokens": layer.window_tokens if idle else None})


def describe_layers(
    base: Sequence[LayerPosition], layers: Sequence[LayerPosition], *, head_dim: int, base_tokens: int
) -> list[str]:
    """Equal layers in one line, such as ``0, 2, ..., 22: unchanged, window 4Ki``: changes and kept values of each."""
    words, first = [], 0
    runs: list[tuple[tuple[LayerPosition, LayerPosition], list[tuple[int, int]]]] = []
    for pair, run in groupby(zip(base, layers, strict=True)):
        last = first + len(list(run)) - 1
        same = next((own for other, own in runs if other == pair), None)
        if same is None:
            runs.append((pair, [(first, last)]))
        else:
            same.append((first, last))
        first = last + 1
    for (old, new), places in runs:
        own = old.as_base(head_dim=head_dim, context_tokens=base_tokens)
        turned = "" if old.mixer == new.mixer else " in place of attention"
        parts = [describe(own, new.rope) if new.mixer is None else f"{new.mixer}{turned}, no positions"]
        if new.window_tokens is not None:
            parts.append(f"window {format_length(new.window_tokens)}")
        elif old.window_tokens is not None:
            parts.append(f"without the window of {format_length(old.window_tokens)}")
        if new.log_n_tokens is not None:
            parts.append(f"temperature from {format_length(new.log_n_tokens)} on")
        if new.bias is not None:
            parts.append(new.bias)
        if new.beside is not None:
            parts.append(f"{new.beside} beside attention, no positions")
        words.append(f"{_spell_runs(places)}: {', '.join(parts)}")
    return words


def _spell_runs(runs: Sequence[tuple[int, int]]) -> str:
    """Runs of layers, first and last, such as ``0-2, 4-6``; those of equal length and distance as ``0, 2, ..., 22``."""
    told = [f"{first}-{last}" if last > first else f"{first}" for first, last in runs]
    steps = {(after[0] - run[0], after[1] - run[1]) for run, after in pairwise(runs)}
    return f"{told[0]}, {told[1]}, ..., {told[-1]}" if len(runs) > _FEW_RUNS and len(steps) == 1 else ", ".join(told)


def _require_attention(base: Sequence[LayerPosition]) -> None:
    kinds = {layer.mixer for layer in base} - {None}
    if kinds:
        raise UserError(
            "a pattern of layers needs a base whose layers all have attention",
            where="layers",
            why=f"{sum(layer.mixer is not None for layer in base)} of {len(base)} layers have none "
            f"({', '.join(sorted(map(str, kinds)))}), and a rule of positions says nothing about them",
            fix="leave layers out: the layers with attention are stretched, and no others",
        )


def _check_pattern(pattern: tuple[LayerRule, ...], *, layers: int, context_tokens: int) -> None:
    if layers % len(pattern):
        raise UserError(
            "the pattern does not divide the layers",
            where="layers",
            why=f"the pattern has {format_count(len(pattern), 'line')}, and the model {format_count(layers, 'layer')}",
            fix=f"give a pattern of {_divisors(layers)} lines",
        )
    for index, rule in enumerate(pattern):
        if rule.window is not None and rule.window > context_tokens:
            raise UserError(
                "a window is larger than the context",
                where=f"layers[{index}].window",
                why=f"{format_length(rule.window)} tokens do not fit into {format_length(context_tokens)}",
                fix="remove the window, or make it smaller",
            )


def _divisors(layers: int) -> str:
    return ", ".join(str(lines) for lines in range(1, layers + 1) if layers % lines == 0)


def plain_layers(layers: int, theta: float) -> tuple[LayerPosition, ...]:
    """Every layer with plain RoPE over all earlier tokens."""
    return (LayerPosition(rope=Unchanged(), theta=theta),) * layers
