"""Positions in a config.json, in either dialect, to one answer.

transformers 5 writes ``rope_parameters``; transformers 4 wrote ``rope_theta`` and ``rope_scaling``. The surprise: where
a file has both and they disagree, transformers 5 lets ``rope_scaling`` win and readers of the old keys something
else, so a disagreement is refused here.
"""

import math
from collections.abc import Mapping
from typing import Any

from ropewalk.core.error import UserError

DEFAULT_THETA = 10_000.0  # of transformers, where a config names none
_KNOWS_ORIGINAL_LENGTH = {"yarn", "llama3", "longrope", "dynamic"}


def read_rope(config: Mapping[str, Any], *, context_tokens: int, where: str) -> tuple[float, dict[str, Any] | None]:
    """Theta, and the full ``rope_parameters`` unless they are plain.

    Raises UserError for dialects that disagree, rules per layer, partial rotation, and a theta that is no theta.
    """
    found = {
        key: _normalise(config[key], config, context_tokens=context_tokens, where=f"{where}: {key}")
        for key in ("rope_parameters", "rope_scaling")
        if config.get(key)
    }
    parameters = next(iter(found.values()), None) or _normalise({}, config, context_tokens=context_tokens, where=where)
    for key, other in found.items():
        for name in sorted({*parameters, *other}, key=lambda name: (name != "rope_type", name)):
            if parameters.get(name) != other.get(name):
                raise _disagree(
                    where, f"rope_parameters.{name}", parameters.get(name), f"{key}.{name}", other.get(name)
                )
    theta: float = parameters["rope_theta"]
    return theta, None if parameters["rope_type"] == "default" else parameters


def _normalise(raw: Any, config: Mapping[str, Any], *, context_tokens: int, where: str) -> dict[str, Any]:
    """One dict of either dialect with ``rope_type`` and ``rope_theta`` in it, checked."""
    if not isinstance(raw, Mapping):
        raise UserError("rope parameters are not a mapping", where=where, why=f"found {raw!r}", fix="correct the file")
    if nested := [key for key, value in raw.items() if isinstance(value, Mapping)]:
        raise UserError(
            "positions differ between layers, which is not supported yet",
            where=where,
            why=f"it has entries for {', '.join(nested)}",
            fix="choose a base with one rope for all layers",
        )
    values = {key: value for key, value in raw.items() if value is not None and key != "type"}
    values["rope_type"] = raw.get("rope_type") or raw.get("type") or "default"
    outside = config.get("rope_theta")
    theta = values.get("rope_theta", DEFAULT_THETA if outside is None else outside)
    if outside is not None and theta != outside:
        raise _disagree(where, "rope_theta inside", theta, "rope_theta outside", outside)
    values["rope_theta"] = _check_theta(theta, where)
    if values["rope_type"] in _KNOWS_ORIGINAL_LENGTH:
        values.setdefault(
            "original_max_position_embeddings", config.get("original_max_position_embeddings") or context_tokens
        )
    _refuse_partial(values, config, where)
    return values


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
