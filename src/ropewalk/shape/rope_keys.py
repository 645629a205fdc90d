"""Read RoPE from a config.json, in either format, as one result for full layers and one for windowed layers.

transformers 5 writes ``rope_parameters``; transformers 4 wrote ``rope_theta`` and ``rope_scaling``. If a file has both
and they disagree, transformers 5 uses ``rope_scaling`` and readers of the old keys use other values. So a disagreement
is refused here. If a class has one RoPE per layer type, the old keys never meant all layers: ``rope_scaling`` belongs
to the full ones only. A linear block has no key for the length that its factor counts from. Bases write the divided or
the original length as their context, so this length is read from other keys, or left open.
"""

from collections.abc import Mapping
from typing import Any

from ropewalk.core.error import UserError
from ropewalk.rope.layers import LayerPosition
from ropewalk.rope.method import LARGEST_THETA
from ropewalk.rope.scaling import Linear
from ropewalk.shape import rope_block
from ropewalk.shape.family import Family
from ropewalk.shape.rope_block import ORIGINAL

FULL, WINDOWED = "full_attention", "sliding_attention"
TRAINED_LENGTH = ("yarn", "llama3", "longrope")
"""Methods that count from the length of pretraining."""
_ALIASES = {"su": "longrope"}
"""Older names of methods: the first files of Phi-3."""
_SHARE_KEYS = ("partial_rotary_factor",)
REACH_KEYS = (
    "max_sequence_length",
    "model_max_length",
    "max_seq_length",
    "max_seq_len",
    "seq_length",
    "seq_len",
    "n_positions",
    "n_ctx",
)
"""Other keys of config.json files for the context length; servers use the least of those that they find."""


def read_ropes(
    config: Mapping[str, Any], family: Family, *, context_tokens: int, where: str
) -> dict[str, dict[str, Any]]:
    """Whole ``rope_parameters``, also where they are plain, of the layer types ``FULL`` and ``WINDOWED``.

    Raises UserError for formats that disagree, for values that transformers would ignore, and for an invalid theta.
    """
    if family.nope == "always":
        config = {}  # the class reads none of these keys
    _refuse_methods(config, family, where)
    rope_block.refuse_null_theta(config, family, where)
    if family.theta_key != "rope_theta":
        config = _rename_theta(config, family, where)
    if family.ntk_alpha:
        config = rope_block.fix_alpha(config, where)
    if family.ropes == "one":
        parameters = _read_flat(config, config.get("rope_parameters"), family, context_tokens, where)
        return {FULL: parameters, WINDOWED: parameters}
    nested = _check_nested({} if config.get("rope_parameters") is None else config["rope_parameters"], where)
    full = _read_flat(config, nested.get(FULL), family, context_tokens, where)
    outside = {"rope_theta": family.window_theta, "tokens": context_tokens}
    legacy_theta = config.get(family.window_theta_key)
    if family.window_theta_key != "rope_theta" and legacy_theta is not None:
        outside["rope_theta"] = legacy_theta
    windowed = _normalise(
        nested.get(WINDOWED) or {}, outside, context_tokens, family, f"{where}: rope_parameters.{WINDOWED}"
    )
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


def find_reach(config: Mapping[str, Any], layer: LayerPosition, context_tokens: int) -> int:
    """The context length of a model with stretched layers ``layer`` and ``context_tokens`` in its file.

    It is larger than ``context_tokens`` where the file keeps the original length, and another key, or the division,
    gives the stretched length.
    """
    factor, original = (getattr(layer.rope, name, None) for name in ("factor", "original_tokens"))
    if factor is None or original is None or layer.rope.kind == "dynamic":
        return context_tokens
    stretched = round(factor * original)
    divided = isinstance(layer.rope, Linear) and original == context_tokens
    return max(context_tokens, stretched) if divided or stretched in _claims(config) else context_tokens


def _claims(config: Mapping[str, Any]) -> list[int]:
    return [config[key] for key in REACH_KEYS if type(config.get(key)) is int]


def _find_original(config: Mapping[str, Any], values: Mapping[str, Any], context_tokens: int) -> int | None:
    """The length that a linear block's factor counts from, where the file gives it."""
    factor = values.get("factor")
    if isinstance(factor, bool) or not isinstance(factor, int | float):
        return None
    if type(config.get(ORIGINAL)) is int:
        return int(config[ORIGINAL])
    return context_tokens if factor > 1 and round(context_tokens * factor) in _claims(config) else None


def _read_flat(config: Mapping[str, Any], new: Any, family: Family, context_tokens: int, where: str) -> dict[str, Any]:
    """One RoPE: ``new`` is the block of transformers 5, if the file has one; the older keys are beside it."""
    outside = {"rope_theta": family.theta, "tokens": context_tokens, **_given(config, "rope_theta")}
    if config.get("rope_theta") is not None:
        _check_theta(config["rope_theta"], f"{where}: rope_theta")
    given = config.get(ORIGINAL) if family.ropes == "one" else None  # with several, it is read inside only
    original = family.original_tokens if given is None else given
    found = {  # of {}, a class with a block of its own makes plain RoPE
        key: _normalise(raw, outside, context_tokens if original is None else original, family, f"{where}: {key}")
        for key, raw in (("rope_parameters", new), ("rope_scaling", config.get("rope_scaling")))
        if raw or (key == "rope_parameters" and raw is not None and (family.default_rope or raw != {}))
    }
    for values in found.values():
        if values["rope_type"] == "linear" and (known := _find_original(config, values, context_tokens)) is not None:
            values.setdefault(ORIGINAL, known)
    if not found:
        found = {"": _normalise(family.default_rope, outside, context_tokens, family, where)}
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
    if original is not None and parameters["rope_type"] in TRAINED_LENGTH and parameters[ORIGINAL] != original:
        whose = "the one outside" if given is not None else f"the default of {family.model_type}, which wins,"
        raise _disagree(where, f"{ORIGINAL} inside", parameters[ORIGINAL], whose, original)
    return parameters


def _check_nested(nested: Any, where: str) -> Mapping[str, Any]:
    """``rope_parameters`` of a class with one RoPE per layer type. Raises UserError for entries it would not read."""
    if not isinstance(nested, Mapping):
        raise _no_mapping(nested, f"{where}: rope_parameters")
    if strangers := sorted(set(nested) - {FULL, WINDOWED}):
        raise UserError(
            "rope_parameters must be given for each layer type",
            where=f"{where}: rope_parameters",
            why=f"this architecture has one RoPE for {FULL} and one for {WINDOWED}, and ignores {', '.join(strangers)}",
            fix="write rope_parameters with an entry for each of the two",
        )
    return nested


def _normalise(raw: Any, outside: Mapping[str, Any], context_tokens: int, family: Family, where: str) -> dict[str, Any]:
    """One checked dict from either format, with ``rope_type`` and ``rope_theta``; ``outside`` gives missing values."""
    if not isinstance(raw, Mapping):
        raise _no_mapping(raw, where)
    if nested := [key for key, value in raw.items() if isinstance(value, Mapping)]:
        raise UserError(
            "positions differ between layers, which this architecture does not support",
            where=where,
            why=f"it has entries for {', '.join(nested)}, but its class reads one RoPE for all layers",
            fix="choose a base with one rope for all layers",
        )
    rope_block.refuse_old_type(raw, family, where)
    values = {key: value for key, value in raw.items() if value is not None and key != "type"}
    kinds = [raw[key] for key in ("rope_type", "type") if raw.get(key)]
    if len({str(kind) for kind in kinds}) > 1:
        raise _disagree(where, "rope_type", kinds[0], "type", kinds[1])
    values["rope_type"] = _ALIASES.get(str(kinds[0]), str(kinds[0])) if kinds else "default"
    values["rope_theta"] = _check_theta(values.get("rope_theta", outside["rope_theta"]), where)
    if values["rope_type"] != "proportional":  # there the share belongs to the method
        _refuse_partial(values, family, where)
        values = {key: value for key, value in values.items() if key not in _SHARE_KEYS}
    values = {key: value for key, value in values.items() if key not in family.kept_rope_keys or key == ORIGINAL}
    if values["rope_type"] == "default":
        values.pop(ORIGINAL, None)
    if values["rope_type"] == "dynamic":
        rope_block.refuse_other_original(values.get(ORIGINAL, context_tokens), outside["tokens"], where)
    if values["rope_type"] in TRAINED_LENGTH or values["rope_type"] == "dynamic":
        values.setdefault(ORIGINAL, context_tokens)
    original = values.get(ORIGINAL)
    if values["rope_type"] == "longrope" and type(original) is int and original > 0:
        values.setdefault("factor", max(1.0, outside["tokens"] / original))  # as transformers does
    kept = rope_block.screen_keys(values, where)
    if kept.get(ORIGINAL) != family.default_rope.get(ORIGINAL):  # else the class wrote it, whatever the context
        rope_block.refuse_long_original(kept, outside["tokens"], where)
    return kept


def _given(config: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: config[key] for key in keys if config.get(key) is not None}


def _no_mapping(found: Any, where: str) -> UserError:
    return UserError("rope parameters are not a mapping", where=where, why=f"found {found!r}", fix="correct the file")


def _check_theta(theta: Any, where: str) -> float:
    if isinstance(theta, bool) or not isinstance(theta, int | float) or not 1 < theta <= LARGEST_THETA:
        raise UserError(
            "rope_theta is not usable",
            where=where,
            why=f"it is {theta!r:.60}, and must be a number above 1, up to {LARGEST_THETA:g}",
            fix="correct config.json; 10000 is the usual value of a short-context model",
        )
    return float(theta)


def find_rotary_share(config: Mapping[str, Any], family: Family, *, head_dim: int, where: str) -> float:
    """The share of a head's dimensions that RoPE turns. Raises UserError where the file has two or an invalid one."""
    if family.nope == "always":
        return 1.0
    block = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not family.partial:
        if isinstance(block, Mapping) and block.get("rope_type") == "proportional":
            return 1.0
        _refuse_partial(config, family, where)
        return 1.0
    inside = block.get("partial_rotary_factor") if isinstance(block, Mapping) else None
    rope_block.refuse_null_share(config, block, family, where)
    found = {f"rope_parameters.{_SHARE_KEYS[0]}": inside, _SHARE_KEYS[0]: config.get(_SHARE_KEYS[0])}
    if family.rotary_key not in found:
        given = config.get(family.rotary_key)
        counts = family.rotary_counts and isinstance(given, int) and not isinstance(given, bool)
        found[family.rotary_key] = given / head_dim if counts and given is not None else given
    shares = {name: share for name, share in found.items() if share is not None}
    for name, share in shares.items():
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
            raise UserError(
                "the rotated share of a head is not usable",
                where=f"{where}: {name}",
                why=f"it is {share!r:.60}, and must be above 0 and at most 1",
                fix="correct config.json",
            )
        first = next(iter(shares))
        if share != shares[first]:
            raise _disagree(where, first, shares[first], name, share)
    return float(next(iter(shares.values()), family.rotary_share))


def _rename_theta(config: Mapping[str, Any], family: Family, where: str) -> Mapping[str, Any]:
    """``config`` with its older key of theta under the usual name. Raises UserError where it has the usual one too."""
    given, other = config.get(family.theta_key, family.theta), config.get("rope_theta")
    if other is not None and other != given:
        raise _disagree(where, family.theta_key, given, "rope_theta, which the class ignores", other)
    return {**config, "rope_theta": config.get(family.theta_key)}


def _refuse_methods(config: Mapping[str, Any], family: Family, where: str) -> None:
    """Raise UserError for a rope type that the class does not run."""
    for key in ("rope_parameters", "rope_scaling"):
        block = config.get(key)
        if family.methods is None or not isinstance(block, Mapping):
            continue
        kind = str(block.get("rope_type") or block.get("type") or "default")
        if _ALIASES.get(kind, kind) not in family.methods:
            raise UserError(
                f"{family.model_type} has no {kind} rope",
                where=f"{where}: {key}.rope_type",
                why=f"its class runs {' and '.join(family.methods)} only",
                fix="write it as longrope with the factors of each pair, or choose another base",
            )


def _refuse_partial(values: Mapping[str, Any], family: Family, where: str) -> None:
    share = next((values[key] for key in _SHARE_KEYS if values.get(key) is not None), None)
    if share not in (None, 1, 1.0) and not family.partial:
        raise UserError(
            "partial rotation is not supported",
            where=where,
            why=f"partial_rotary_factor is {share}, which transformers ignores for {family.model_type}",
            fix="remove the key if the model was trained without it, or choose another base",
        )


def _disagree(where: str, name: str, value: Any, other_name: str, other: Any) -> UserError:
    return UserError(
        "the two formats of the rope keys disagree",
        where=where,
        why=f"{name} is {value}, {other_name} is {other}; engines would run different models from this file",
        fix="remove the wrong one from config.json",
    )
