"""The methods a recipe can name, each a frozen value, and both spellings that config.json has for them.

transformers 5 writes one dict, ``rope_parameters``; transformers 4 and most engines read ``rope_theta`` and
``rope_scaling``. The surprise: ``ntk`` needs no scaling key at all, it *is* a change of theta.
"""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, ValidationError

from ropewalk.core.error import UserError
from ropewalk.rope.by_parts import Llama3, NtkByParts, Yarn
from ropewalk.rope.method import Method, Stretch
from ropewalk.rope.plain import Linear, Nope, Ntk, Proportional, Theta, Unchanged

__all__ = [
    "Linear",
    "Llama3",
    "Nope",
    "Ntk",
    "NtkByParts",
    "Proportional",
    "Rope",
    "Theta",
    "Unchanged",
    "Yarn",
    "legacy_hf",
    "read_method",
]


Rope = Annotated[
    Unchanged | Theta | Linear | Ntk | NtkByParts | Yarn | Llama3 | Proportional | Nope, Field(discriminator="kind")
]

_OUR_KEYS = {
    "rope_theta": "theta",
    "original_max_position_embeddings": "original_tokens",
    "partial_rotary_factor": "share",
    "attention_factor": "fixed_attention_factor",
}
_OUR_METHODS: Mapping[str, type[Stretch]] = {
    "default": Theta,
    "linear": Linear,
    "yarn": Yarn,
    "llama3": Llama3,
    "proportional": Proportional,
}


def read_method(parameters: Mapping[str, Any], *, where: str) -> Method:
    """The completed method that a config.json's ``rope_parameters`` describe; ``to_hf`` read backwards.

    Raises UserError, naming ``where``, for a type or a key that none of our methods has.
    """
    rope_type = str(parameters.get("rope_type"))
    if rope_type not in _OUR_METHODS:
        raise UserError(
            f"rope type {rope_type} is not supported",
            where=where,
            why=f"it is none of {', '.join(_OUR_METHODS)}, the ones whose frequencies are fixed",
            fix="choose a base with one of those",
        )
    values = {_OUR_KEYS.get(key, key): value for key, value in parameters.items() if key != "rope_type"}
    values = {key: value for key, value in values.items() if value is not None}
    if rope_type == "proportional":
        values.setdefault("share", 1.0)
    try:
        return _OUR_METHODS[rope_type].model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(
            f"the {rope_type} rope of the base cannot be used",
            where=where,
            why=f"{'.'.join(map(str, first['loc'])) or rope_type}: {first['msg']} (given: {first['input']!r})",
            fix="correct rope_parameters in config.json",
        ) from None


def legacy_hf(rope_parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The same positions for readers of transformers 4: ``rope_theta``, and ``rope_scaling`` unless plain."""
    scaling = {key: value for key, value in rope_parameters.items() if key != "rope_theta"}
    theta = {"rope_theta": rope_parameters["rope_theta"]}
    return theta if scaling["rope_type"] == "default" else {**theta, "rope_scaling": scaling}
