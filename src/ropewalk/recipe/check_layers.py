"""The field's rules for the changes that a stage makes to a model's layers; each rule has its source."""

from collections.abc import Iterator

import numpy as np

from ropewalk.core.quantity import format_amount, format_length
from ropewalk.recipe.finding import Finding
from ropewalk.recipe.stage import Stage
from ropewalk.rope.bounds import first_negative
from ropewalk.rope.scaling import Nope
from ropewalk.shape.model_shape import ModelShape

# DroPE recovered 95 % of the SmolLM models' short-context scores within 5B tokens without rotation.
_RECALIBRATION_TOKENS = 5e9


def check_layers(stage: Stage, key: str, before: ModelShape, after: ModelShape, *, trained: bool) -> Iterator[Finding]:
    """Yield the rules that a stage breaks when it turns the shape ``before`` into the shape ``after``.

    ``key`` is the stage's path in the recipe. ``trained`` is true if the model before the stage has already been
    trained.
    """
    yield from _check_pose(stage, key, after)
    if before.positions != after.positions or stage.reach_tokens > before.context_tokens:
        yield from _check_reach(stage, key, after)
    yield from _check_change(stage, key, before, after)
    if trained:
        yield from _check_windows(stage, key, before, after)
        yield from _check_lost(stage, key, before, after)


def _check_pose(stage: Stage, key: str, after: ModelShape) -> Iterator[Finding]:
    """Check skip-wise positions against the base's layers; recipe/spec checks only the stage's own keys.

    A stage may keep the base's methods, so its own keys do not contain them.
    """
    if stage.pose is None:
        return
    for kind in sorted({layer.rope.kind for layer in after.positions if layer.rope.depends_on_length}):
        message = f"the base's {kind} depends on the length of a document, which skip-wise positions do not show"
        yield Finding("error", f"{key}.pose", message, "rope/pose")
    if any(layer.window_tokens for layer in after.positions):
        message = (
            "the base has attention windows. A window counts tokens, so training would contain distances that "
            "never occur afterwards"
        )
        yield Finding("error", f"{key}.pose", message, "rope/pose")


def _check_reach(stage: Stage, key: str, after: ModelShape) -> Iterator[Finding]:
    layer, reach = after.stretched, stage.reach_tokens
    if isinstance(layer.rope, Nope):
        return
    farthest = min(reach, layer.window_tokens or reach)
    negative = first_negative(layer.inv_freq_at(reach, after.rotary_dim), farthest)
    if negative is not None:
        message = (
            f"similar tokens attract each other only up to distance {negative - 1:,}, not {farthest:,}: theta "
            f"is too small"
        )
        source = "Men et al. 2024 (2405.14591): B(m) >= 0, a soft bound"
        fix = f"{key}.rope={{kind: theta, theta: auto}}, or what `ropewalk advise` recommends for this length"
        yield Finding("warning", f"{key}.rope", message, source, fix)


def _check_change(stage: Stage, key: str, before: ModelShape, after: ModelShape) -> Iterator[Finding]:
    """Warn if a method changes nothing.

    Usually the base's config.json gives the base's context length in another key.
    """
    running = before.base_rope.running
    if running is not None and stage.rope.kind == running.kind and before.positions == after.positions:
        message = (
            f"the base already reads {format_length(before.context_tokens)} with its own {running.kind}, so "
            f"{stage.rope.kind} has no effect for {format_length(stage.reach_tokens)}"
        )
        fix = f"{key}.rope={{kind: unchanged}} if that length is enough, else another method (`ropewalk advise`)"
        yield Finding("warning", f"{key}.rope", message, "rope", fix)


def _check_windows(stage: Stage, key: str, before: ModelShape, after: ModelShape) -> Iterator[Finding]:
    reach, head_dim, trained_tokens = stage.reach_tokens, before.rotary_dim, before.context_tokens
    windows = {
        new.window_tokens
        for old, new in zip(before.positions, after.positions, strict=True)
        if new.window_tokens is not None
        and new.window_tokens <= trained_tokens
        and not isinstance(new.rope, Nope)
        and not np.allclose(old.inv_freq_at(reach, head_dim), new.inv_freq_at(reach, head_dim), rtol=1e-9, atol=0)
    }
    for window in sorted(windows):
        message = (
            f"layers with a window of {format_length(window)} have no distance above the base's "
            f"{format_length(trained_tokens)}, but the recipe also changes their RoPE; rope: unchanged keeps it as "
            f"it is"
        )
        source = "OLMo 3, Gemma 3 (2503.19786): only full layers are extended"
        fix = "give the lines of layers with a window rope: unchanged"
        yield Finding("warning", f"{key}.layers", message, source, fix)


def _check_lost(stage: Stage, key: str, before: ModelShape, after: ModelShape) -> Iterator[Finding]:
    lost = sum(
        isinstance(new.rope, Nope) and new.mixer is None and not isinstance(old.rope, Nope)
        for old, new in zip(before.positions, after.positions, strict=True)
    )
    if lost and stage.tokens < _RECALIBRATION_TOKENS:
        message = (
            f"{lost} of {after.layers} layers were trained with RoPE and lose it; the model needed up to "
            f"{format_amount(_RECALIBRATION_TOKENS)} tokens to recover, and the stage has {format_amount(stage.tokens)}"
        )
        source = "DroPE 2025 (2512.12167): 0.5 to 2 % of pretraining"
        fix = f"{key}.tokens={format_amount(_RECALIBRATION_TOKENS)}, or keep RoPE in more layers"
        yield Finding("warning", f"{key}.layers", message, source, fix)
