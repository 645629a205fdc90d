"""The keys of one rope block in a config.json besides those of its method: harmless, or a sign of another model.

transformers warns of an unknown key and runs without it; other readers may obey it. So a key passes where it affects no
reader's angles or scale, or where its value changes nothing. Any other key is refused. The error gives its effect, its
place, and the line that has the same meaning in a key that every reader supports.
"""

import math
from collections.abc import Mapping
from typing import Any

from ropewalk.core.error import UserError
from ropewalk.rope.method import LARGEST_THETA
from ropewalk.rope.scaling import KEYS
from ropewalk.shape.family import Family

_INFORMATIVE = ("finetuned", "original_max_position_embeddings", "max_position_embeddings", "name", "description")
"""Keys for people, or for programs of a base's authors that compute the same angles."""
_NEUTRAL: Mapping[str, tuple[float, ...]] = {
    "attn_factor": (1.0,),
    "extrapolation_factor": (1.0,),
    "factor": (1.0,),
    "mscale_all_dim": (0.0,),
    "alpha": (1.0,),
    "llama_4_scaling_beta": (0.0,),
}
"""Keys of some readers, with the values that change nothing."""
ORIGINAL = "original_max_position_embeddings"
_REQUIRED = {"llama3": ("low_freq_factor", "high_freq_factor")}
"""Keys that transformers needs and our method has a default for; other missing ones are told by read_layers.py."""
_SHARPENING = ("attn_factor", "mscale", "short_mscale", "long_mscale")
_SHARE = "partial_rotary_factor"
_PLAIN = ("rope_type", "rope_theta", _SHARE)


def screen_keys(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """``values`` without the keys that change nothing; ``rope_type`` in it is the method, ``where`` names the block.

    Raises UserError for a key, or a number, that would make readers of the file run different models.
    """
    kind = values["rope_type"]
    known = {*_PLAIN, *KEYS.get(kind, ())}
    _refuse_numbers(values, where)
    if missing := [key for key in _REQUIRED.get(kind, ()) if key not in values]:
        raise UserError(
            f"the {kind} rope of this model is incomplete",
            where=where,
            why=f"it has no {' and no '.join(missing)}",
            fix="correct config.json",
        )
    kept = dict(values)
    for key in sorted(set(values) - known):
        if key in _INFORMATIVE or _is_neutral(values[key], _NEUTRAL.get(key, ())):
            del kept[key]
        elif kind in ("yarn", "longrope") and key in _SHARPENING:
            _weigh_sharpening(key, values, where)
            del kept[key]
        elif kind in KEYS:
            raise _refuse(key, values, where, fix=f"remove {key} if the model was trained with transformers")
    _settle_mscale(kept, where)
    return kept


def fix_alpha(config: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """``config`` with plain RoPE in place of ``dynamic`` with a number ``alpha``, which sets a fixed theta.

    Raises UserError for such a block without ``factor``: the class does not use it, and fails without.
    """
    fixed = dict(config)
    for key in ("rope_parameters", "rope_scaling"):
        block = config.get(key)
        if not isinstance(block, Mapping) or (block.get("rope_type") or block.get("type")) != "dynamic":
            continue
        alpha, theta = block.get("alpha"), block.get("rope_theta", config.get("rope_theta", 10_000.0))
        head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
        if not alpha or any(type(number) not in (int, float) for number in (alpha, theta)):
            continue
        if "factor" not in block:
            raise UserError(
                "the dynamic rope of this model is incomplete",
                where=f"{where}: {key}",
                why="it has no factor, without which the class fails, though alpha alone sets its angles",
                fix='add "factor": 1.0 to the block',
            )
        fixed[key] = {"rope_type": "default", "rope_theta": theta * alpha ** (head_dim / (head_dim - 2))}
        fixed.pop("rope_theta", None)
    return fixed


def refuse_null_theta(config: Mapping[str, Any], family: Family, where: str) -> None:
    """Raise UserError for a theta that is null and stands in no block: the class takes no default for it, and fails."""
    blocks = [config[key] for key in ("rope_parameters", "rope_scaling") if isinstance(config.get(key), Mapping)]
    blocks += [kind for block in blocks for kind in block.values() if isinstance(kind, Mapping)]  # one per layer type
    given = any(block.get("rope_theta") is not None for block in blocks)
    if family.nope == "null_theta" or given or config.get(family.theta_key, 0) is not None:
        return
    raise UserError(
        f"{family.theta_key} is not usable",
        where=f"{where}: {family.theta_key}",
        why="it is null, for which the class has no default",
        fix="give the number that the model was trained with",
    )


def refuse_null_share(config: Mapping[str, Any], block: Any, family: Family, where: str) -> None:
    """Raise UserError for a share that is null: classes turn the whole head then, or fail, and take no default."""
    inside = isinstance(block, Mapping) and _SHARE in block
    owner = block if inside else config
    keys = {_SHARE} if inside or family.rotary_counts else {_SHARE, family.rotary_key}
    for key in sorted(keys):
        if key in owner and owner[key] is None:
            raise UserError(
                "the rotated share of a head is not usable",
                where=f"{where}: rope_parameters.{key}" if inside else f"{where}: {key}",
                why=f"it is null, for which the class of {family.model_type} does not take its default "
                f"({family.rotary_share:g})",
                fix="remove the key, or give the share that the model was trained with",
            )


def refuse_old_type(raw: Mapping[str, Any], family: Family, where: str) -> None:
    """Raise UserError for a method under its older key alone: a class with one RoPE per layer type ignores it."""
    kind = raw.get("type")
    if family.ropes == "by_type" and kind not in (None, "default") and not raw.get("rope_type"):
        raise UserError(
            "the rope type would be ignored",
            where=f"{where}.type",
            why=f"it is {kind!r:.60}, and the class of {family.model_type} reads rope_type alone and runs plain RoPE",
            fix="write rope_type in place of type",
        )


def refuse_other_original(original: Any, context_tokens: int, where: str) -> None:
    """Raise UserError for a dynamic rope with an original length of its own, which its readers do not use."""
    if original != context_tokens:
        raise UserError(
            "the dynamic rope's original length would be ignored",
            where=f"{where}.{ORIGINAL}",
            why=f"it is {original!r:.60}, and transformers counts from max_position_embeddings, {context_tokens}",
            fix="give max_position_embeddings the length that the model was trained at, and remove this key",
        )


def refuse_long_original(values: Mapping[str, Any], context_tokens: int, where: str) -> None:
    """Raise UserError for a scaling that counts from a length beyond the model's ``context_tokens``.

    Such a file says two things: that the model reads ``context_tokens``, and that it was trained on more of them before
    it was scaled. To leave the scaling out would give it angles that it was not trained with.
    """
    original = values.get(ORIGINAL)
    if isinstance(original, int | float) and original > context_tokens:
        raise UserError(
            f"the {values['rope_type']} rope begins beyond the model's context",
            where=f"{where}.{ORIGINAL}",
            why=f"it counts from {original:.10g} tokens, and max_position_embeddings is {context_tokens}",
            fix="give max_position_embeddings the length that the model was trained at",
        )


def _settle_mscale(values: dict[str, Any], where: str) -> None:
    """Remove a yarn's ``mscale`` that has no partner key, if the formula gives the same value; else raise UserError."""
    if values["rope_type"] != "yarn":
        return
    if _is_neutral(values.get("mscale_all_dim"), (0.0,)):
        del values["mscale_all_dim"]  # transformers and DeepSeek's own code both treat 0 as absent
    alone = [key for key in ("mscale", "mscale_all_dim") if key in values]
    if len(alone) != 1:
        return
    if alone == ["mscale"]:
        _weigh_sharpening("mscale", values, where)
        del values["mscale"]
        return
    raise _refuse(alone[0], values, where, fix="give mscale as well, or remove it")


def _weigh_sharpening(key: str, values: Mapping[str, Any], where: str) -> None:
    """Raise UserError unless readers of ``key`` get the same attention factor as readers that ignore it."""
    used, meant = _attention_factor(values), values[key]
    if isinstance(meant, bool) or not isinstance(meant, int | float):
        raise _refuse(key, values, where, fix="remove it, or correct it to a number")
    if key == "attn_factor":
        meant *= used
    elif key == "mscale":
        factor = values.get("factor")
        meant = 1 + 0.1 * meant * math.log(factor) if isinstance(factor, int | float) and factor > 1 else used
    if math.isclose(meant, used, rel_tol=1e-6):
        return
    way = {"attn_factor": "multiply the attention factor by it", "mscale": "weigh the attention factor by it"}
    raise UserError(
        f"{key} is read differently by different programs, so they run different models",
        where=f"{where}.{key}",
        why=f"it is {values[key]}: some programs {way.get(key, 'take it as the factor')}, {meant:.6g} in all, but "
        f"transformers ignores it and runs {used:.6g}",
        fix=f"write attention_factor: {float(f'{meant:.6g}')} in its place if the model was trained so, or remove it "
        f"for {used:.6g}{', as attn_factor: 1 would give' if key == 'attn_factor' else ''}",
    )


def _attention_factor(values: Mapping[str, Any]) -> float:
    """transformers' factor of cosine and sine, for a block whose figures are numbers."""
    figures = {key: value for key, value in values.items() if isinstance(value, int | float)}
    factor, original = figures.get("factor", 1.0), figures.get("original_max_position_embeddings", 1)
    if "attention_factor" in figures:
        return float(figures["attention_factor"])
    if factor <= 1:
        return 1.0
    if values["rope_type"] == "longrope":
        return math.sqrt(1 + math.log(factor) / math.log(original)) if original > 1 else 1.0
    growth, above, below = 0.1 * math.log(factor), figures.get("mscale"), figures.get("mscale_all_dim")
    return (above * growth + 1) / (below * growth + 1) if above and below else growth + 1


def _refuse_numbers(values: Mapping[str, Any], where: str) -> None:
    """Raise UserError for figures that are not numbers: transformers would fail, or run undefined angles."""
    figures = KEYS.get(values["rope_type"], frozenset()) - {"truncate"}
    for key, value in values.items():
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, float | int) and not isinstance(number, bool) and abs(number) <= LARGEST_THETA:
                continue
            if key in figures or (isinstance(number, float | int) and not isinstance(number, bool)):
                raise UserError(
                    f"{key} is not a usable number",
                    where=f"{where}.{key}",
                    why=f"it is {number!r:.60}, and must be a number up to {LARGEST_THETA:g}",
                    fix="correct config.json",
                )
    if not isinstance(values.get("truncate", True), bool):
        raise UserError(
            "truncate is neither true nor false",
            where=f"{where}.truncate",
            why=f"it is {values['truncate']!r:.60}",
            fix="correct config.json",
        )


def _refuse(key: str, values: Mapping[str, Any], where: str, *, fix: str) -> UserError:
    kind = values["rope_type"]
    owners = [name for name, keys in KEYS.items() if key in keys]
    whose = f"it belongs to {' and '.join(owners)}" if owners else "it is not read here, and other programs may use it"
    return UserError(
        f"{kind} rope has no key {key}",
        where=f"{where}.{key}",
        why=f"it is {values[key]!r:.60}: {whose}",
        fix=f"{fix}; otherwise choose another base, because ropewalk does not support this key",
    )


def _is_neutral(value: Any, neutral: tuple[float, ...]) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and float(value) in neutral
