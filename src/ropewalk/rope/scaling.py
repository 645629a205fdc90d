"""The methods that a recipe can name, each a frozen value, and their two forms in config.json.

transformers 5 writes one dict, ``rope_parameters``; transformers 4 and most engines read ``rope_theta`` and
``rope_scaling``. The two forms do not hold the same keys in different places: transformers 4 looks for the original
length of a longrope beside ``rope_scaling`` and not in it.
"""

import math
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, ValidationError

from ropewalk.core.error import UserError
from ropewalk.rope.dynamic import Dynamic, LongRope
from ropewalk.rope.method import Method, follows_formula
from ropewalk.rope.resonance import Resonance
from ropewalk.rope.uniform import Linear, Nope, Ntk, Proportional, Theta, Unchanged
from ropewalk.rope.yarn import Llama3, NtkByParts, Yarn

__all__ = [
    "Dynamic",
    "Linear",
    "Llama3",
    "LongRope",
    "Nope",
    "Ntk",
    "NtkByParts",
    "Proportional",
    "Resonance",
    "Rope",
    "Theta",
    "Unchanged",
    "Yarn",
    "legacy_hf",
    "read_method",
]

Rope = Annotated[
    Unchanged
    | Theta
    | Linear
    | Ntk
    | Dynamic
    | NtkByParts
    | Yarn
    | Llama3
    | LongRope
    | Resonance
    | Proportional
    | Nope,
    Field(discriminator="kind"),
]

_OUR_KEYS = {
    "rope_theta": "theta",
    "original_max_position_embeddings": "original_tokens",
    "partial_rotary_factor": "share",
    "attention_factor": "fixed_attention_factor",
}
_OUR_METHODS: Mapping[str, type[Method]] = {
    "default": Theta,
    "linear": Linear,
    "dynamic": Dynamic,
    "yarn": Yarn,
    "llama3": Llama3,
    "longrope": LongRope,
    "proportional": Proportional,
}
_HF_NAMES = {ours: theirs for theirs, ours in _OUR_KEYS.items()}
KEYS: Mapping[str, frozenset[str]] = {
    name: frozenset(_HF_NAMES.get(field, field) for field in method.model_fields) - {"kind", "search"}
    for name, method in _OUR_METHODS.items()
}
"""Keys of a config.json's rope block that a method of ours has a field for, by the block's ``rope_type``."""


def read_method(parameters: Mapping[str, Any], *, where: str) -> Method:
    """The completed method that a config.json's ``rope_parameters`` describe; the inverse of ``to_hf``.

    A resonance is read back as the longrope that it was written as. A ``dynamic`` is complete only where the reader of
    the config has copied its ``max_position_embeddings`` to ``original_max_position_embeddings``. Raises UserError,
    naming ``where``, for a type or a key that none of our methods has.
    """
    rope_type = str(parameters.get("rope_type"))
    if rope_type not in _OUR_METHODS:
        raise UserError(
            f"rope type {rope_type} is not supported",
            where=where,
            why=f"supported types are {', '.join(_OUR_METHODS)}",
            fix="choose a base with one of these types",
        )
    values = {_OUR_KEYS.get(key, key): value for key, value in parameters.items() if key != "rope_type"}
    values = {key: value for key, value in values.items() if value is not None}
    kind = _name_kind(rope_type, values)
    try:
        return _leave_to_formula(kind.model_validate(values))
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(
            f"the {rope_type} rope of the base cannot be used",
            where=where,
            why=f"{'.'.join(map(str, first['loc'])) or rope_type}: {first['msg']}"
            + ("" if isinstance(first["input"], dict) else f" (given: {first['input']!r:.60})"),
            fix="correct rope_parameters in config.json",
        ) from None


def _leave_to_formula(method: Method) -> Method:
    """``method`` without a written attention factor, if its formula gives the same value within 1e-9."""
    if not getattr(method, "factor", None) or not getattr(method, "original_tokens", None):
        return method
    derived = method.model_copy(update=dict.fromkeys(follows_formula(method)))
    exact = math.isclose(derived.attention_factor, method.attention_factor, rel_tol=1e-9)
    return type(method).model_validate(derived.model_dump(exclude_none=True)) if exact else method


def _name_kind(rope_type: str, values: dict[str, Any]) -> type[Method]:
    """Our class that ``values`` describe; removes from ``values`` the entries that only config.json needs."""
    if rope_type == "proportional":
        if values.setdefault("share", 1.0) == 0:
            values.clear()
            return Nope
    elif values.get("share") == 1:  # transformers writes it also for methods that turn every pair
        del values["share"]
    attention_factor, factor = values.get("fixed_attention_factor"), values.get("factor")
    # At a factor of 1 the formula gives 1 as well. A written factor equal to the formula's belongs to yarn.
    if rope_type == "yarn" and attention_factor == 1 and "mscale" not in values and factor != 1:
        del values["fixed_attention_factor"]
        return NtkByParts
    return _OUR_METHODS[rope_type]


def legacy_hf(rope_parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The same positions for readers of transformers 4: ``rope_theta``, and ``rope_scaling`` unless RoPE is plain."""
    scaling = {key: value for key, value in rope_parameters.items() if key != "rope_theta"}
    theta = {"rope_theta": rope_parameters["rope_theta"]}
    if scaling["rope_type"] == "default":
        return theta
    original = {}
    if scaling["rope_type"] == "longrope":
        original["original_max_position_embeddings"] = scaling["original_max_position_embeddings"]
    return {**theta, **original, "rope_scaling": scaling}
