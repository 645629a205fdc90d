"""RoPE in a config.json, in either dialect, to one answer for full layers and one for windowed ones.

transformers 5 writes ``rope_parameters``; transformers 4 wrote ``rope_theta`` and ``rope_scaling``. The surprise: where
a file has both and they disagree, transformers 5 lets ``rope_scaling`` win and readers of the old keys something
else, so a disagreement is refused here. And where a class has one RoPE per layer type, the old keys never meant all
layers: ``rope_scaling`` is the full ones' alone.
"""

import math
from collections.abc import Mapping
from typing import Any

from ropewalk.core.error import UserError
from ropewalk.shape.families import Family

FULL, WINDOWED = "full_attention", "sliding_attention"
_ORIGINAL = "original_max_position_embeddings"
_TRAINED_LENGTH = {"yarn", "llama3", "longrope"}


def read_ropes(
    config: Mapping[str, Any], family: Family, *, context_tokens: int, where: str
) -> dict[str, dict[str, Any]]:
    """Whole ``rope_parameters``, also where they are plain, of the layer types ``FULL`` and ``WINDOWED``.

    Raises UserError for dialects that disagree, for what transformers would ignore, and for a theta that is no theta.
    """
    if family.ropes == "one":
        parameters = _read_flat(config, config.get("rope_parameters"), family, context_tokens, where)
        return {FULL: parameters, WINDOWED: parameters}
    nested = _check_nested(config.get("rope_parameters") or {}, where)
    full = _read_flat(config, nested.get(FULL), family, context_tokens, where)
    outside = {"rope_theta": family.window_theta, **_given(config, "partial_rotary_factor")}
    legacy_theta = config.get(family.window_theta_key)
    if family.window_theta_key != "rope_theta" and legacy_theta is not None:
        outside["rope_theta"] = legacy_theta
    windowed = _normalise(nested.get(WINDOWED) or {}, outside, context_tokens, f"{where}: rope_parameters.{WINDOWED}")
    if legacy_theta is not None and legacy_theta != windowed["rope_theta"]:
        raise _disagree(
            where, f"rope_theta of {WINDOWED}", windowed["rope_theta"], family.window_theta_key, legacy_theta
        )
    for kind, values in ((FULL, full), (WINDOWED, windowed)):
        if values.get("truncate") is False:
            raise UserError(
                "truncate: false would be ignored",
                where=f"{where}: rope_parameters.{kind}",
                why="transformers reads it only where all layers share one RoPE, and rounds the ramp to whole pairs",
                fix="remove it if the model was trained with transformers, or choose another base",
            )
    return {FULL: full, WINDOWED: windowed}


def _read_flat(config: Mapping[str, Any], new: Any, family: Family, context_tokens: int, where: str) -> dict[str, Any]:
    """One RoPE: ``new`` is the dialect of transformers 5, if the file speaks it; beside it stand the older keys."""
    outside = {"rope_theta": family.theta, **_given(config, "rope_theta", "partial_rotary_factor")}
    flat = family.ropes == "one"  # where there are several, transformers looks for the original length inside only
    original = config.get(_ORIGINAL) if flat else None
    found = {
        key: _normalise(raw, outside, original or context_tokens, f"{where}: {key}")
        for key, raw in (("rope_parameters", new), ("rope_scaling", config.get("rope_scaling")))
        if raw
    }
    if not found:
        return _normalise({}, outside, context_tokens, where)
    parameters = next(iter(found.values()))
    for key, other in found.items():
        for name in sorted({*parameters, *other}, key=lambda name: (name != "rope_type", name)):
            if parameters.get(name) != other.get(name):
                raise _disagree(
                    where, f"rope_parameters.{name}", parameters.get(name), f"{key}.{name}", other.get(name)
                )
    if config.get("rope_theta") is not None and parameters["rope_theta"] != outside["rope_theta"]:
        raise _disagree(
            where, "rope_theta inside", parameters["rope_theta"], "rope_theta outside", outside["rope_theta"]
        )
    if original and parameters["rope_type"] in _TRAINED_LENGTH and parameters[_ORIGINAL] != original:
        raise _disagree(where, f"{_ORIGINAL} inside", parameters[_ORIGINAL], "the one outside", original)
    return parameters


def _check_nested(nested: Any, where: str) -> Mapping[str, Any]:
    """``rope_parameters`` of a class that has one RoPE per layer type. Raises UserError for what it would not read."""
    if not isinstance(nested, Mapping):
        raise _no_mapping(nested, f"{where}: rope_parameters")
    if strangers := sorted(set(nested) - {FULL, WINDOWED}):
        raise UserError(
            "rope_parameters are not told per layer type",
            where=f"{where}: rope_parameters",
            why=f"this architecture has one RoPE for {FULL} and one for {WINDOWED}, and ignores {', '.join(strangers)}",
            fix="write rope_parameters with an entry for each of the two",
        )
    return nested


def _normalise(raw: Any, outside: Mapping[str, Any], context_tokens: int, where: str) -> dict[str, Any]:
    """One dict of either dialect with ``rope_type`` and ``rope_theta`` in it, checked; ``outside`` fills it up."""
    if not isinstance(raw, Mapping):
        raise _no_mapping(raw, where)
    if nested := [key for key, value in raw.items() if isinstance(value, Mapping)]:
        raise UserError(
            "positions differ between layers, which this architecture cannot run",
            where=where,
            why=f"it has entries for {', '.join(nested)}, and its class reads one RoPE for all layers",
            fix="choose a base with one rope for all layers",
        )
    values = {key: value for key, value in raw.items() if value is not None and key != "type"}
    values["rope_type"] = raw.get("rope_type") or raw.get("type") or "default"
    values["rope_theta"] = _check_theta(values.get("rope_theta", outside["rope_theta"]), where)
    if values["rope_type"] in _TRAINED_LENGTH or values["rope_type"] == "dynamic":
        values.setdefault(_ORIGINAL, context_tokens)
    _refuse_partial(values, outside, where)
    return values


def _given(config: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: config[key] for key in keys if config.get(key) is not None}


def _no_mapping(found: Any, where: str) -> UserError:
    return UserError("rope parameters are not a mapping", where=where, why=f"found {found!r}", fix="correct the file")


def _check_theta(theta: Any, where: str) -> float:
    if isinstance(theta, bool) or not isinstance(theta, int | float) or not (math.isfinite(theta) and theta > 1):
        raise UserError(
            "rope_theta is not usable",
            where=where,
            why=f"it is {theta!r}, and must be a finite number above 1",
            fix="correct config.json; 10000 is the usual value of a short-context model",
        )
    return float(theta)


def _refuse_partial(values: Mapping[str, Any], config: Mapping[str, Any], where: str) -> None:
    share = values.get("partial_rotary_factor", config.get("partial_rotary_factor"))
    if share not in (None, 1, 1.0) and values["rope_type"] != "proportional":
        raise UserError(
            "partial rotation is not supported",
            where=where,
            why=f"partial_rotary_factor is {share}, which transformers ignores for these architectures",
            fix="remove the key if the model was trained without it, or choose another base",
        )
    if values["rope_type"] == "default" and (
        unknown := set(values) - {"rope_type", "rope_theta", "partial_rotary_factor"}
    ):
        raise UserError(
            "plain RoPE has no such keys",
            where=where,
            why=f"found {', '.join(sorted(unknown))} with rope_type default",
            fix="remove them, or name the rope_type they belong to",
        )


def _disagree(where: str, name: str, value: Any, other_name: str, other: Any) -> UserError:
    return UserError(
        "the two rope dialects disagree",
        where=where,
        why=f"{name} is {value}, {other_name} is {other}; engines would run different models from this file",
        fix="remove the wrong one from config.json",
    )
