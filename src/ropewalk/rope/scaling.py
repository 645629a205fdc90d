"""The methods a recipe can name, each a frozen value, and both spellings that config.json has for them.

transformers 5 writes one dict, ``rope_parameters``; transformers 4 and most engines read ``rope_theta`` and
``rope_scaling``. The surprise: ``ntk`` needs no scaling key at all, it *is* a change of theta.
"""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
from jaxtyping import Float64
from pydantic import Field, ValidationError

from ropewalk.core.error import UserError
from ropewalk.rope.by_parts import Llama3, NtkByParts, Yarn
from ropewalk.rope.frequency import BaseRope, ntk_theta, plain_inv_freq
from ropewalk.rope.method import Factor, Method, Stretch, ThetaValue, check_head, filled


class Unchanged(Method):
    """What the base runs. On a base that is scaled already, ``complete`` gives the base's own method."""

    kind: Literal["unchanged"] = "unchanged"

    def complete(self, base: BaseRope, context_tokens: int) -> Method:
        """Any length is allowed here, also one below the base's. Raises UserError for a method we do not know."""
        check_head(base)
        return self if base.parameters is None else read_method(base.parameters, where="the base's config.json")

    def inv_freq(self, theta: float, head_dim: int) -> Float64[np.ndarray, "half"]:
        return plain_inv_freq(theta, head_dim)

    def to_hf(self, theta: float) -> dict[str, Any]:
        return {"rope_type": "default", "rope_theta": theta}


class Theta(Stretch):
    """A larger theta, then training at the new length (ABF; 2309.16039). Every engine reads it."""

    kind: Literal["theta"] = "theta"
    theta: ThetaValue

    def inv_freq(self, theta: float, head_dim: int) -> Float64[np.ndarray, "half"]:
        return plain_inv_freq(self.theta, head_dim)

    def to_hf(self, theta: float) -> dict[str, Any]:
        return {"rope_type": "default", "rope_theta": self.theta}

    def _open(self, base: BaseRope, context_tokens: int) -> dict[str, Any]:
        return {}


class Ntk(Stretch):
    """NTK-aware interpolation: the theta whose lowest frequency is ``factor`` times lower.

    It is fixed, unlike transformers' ``dynamic``, whose theta moves with the length of each input.
    """

    kind: Literal["ntk"] = "ntk"
    factor: Factor | None = None

    def inv_freq(self, theta: float, head_dim: int) -> Float64[np.ndarray, "half"]:
        return plain_inv_freq(filled(self.theta), head_dim)

    def to_hf(self, theta: float) -> dict[str, Any]:
        return {"rope_type": "default", "rope_theta": filled(self.theta)}

    def _open(self, base: BaseRope, context_tokens: int) -> dict[str, Any]:
        if base.head_dim == 2:
            raise UserError("ntk needs two pairs", where="rope.kind", why="head_dim is 2", fix="use kind: linear")
        factor = self.factor or context_tokens / base.context_tokens
        theta = ntk_theta(base.theta, base.head_dim, factor)
        if self.theta is not None and not math.isclose(self.theta, theta, rel_tol=1e-9):
            raise UserError(
                "ntk chooses theta itself",
                where="rope.theta",
                why=f"a factor of {factor:g} makes {base.theta:g} into {theta:.8g}, and {self.theta:g} was asked for",
                fix="leave theta out, or use kind: theta",
            )
        return {"factor": factor, "theta": theta}


class Linear(Stretch):
    """Position interpolation: every frequency divided by ``factor`` (2306.15595)."""

    kind: Literal["linear"] = "linear"
    factor: Factor | None = None

    def inv_freq(self, theta: float, head_dim: int) -> Float64[np.ndarray, "half"]:
        return plain_inv_freq(self.final_theta(theta), head_dim) / filled(self.factor)

    def to_hf(self, theta: float) -> dict[str, Any]:
        return {"rope_type": "linear", "rope_theta": self.final_theta(theta), "factor": filled(self.factor)}

    def _open(self, base: BaseRope, context_tokens: int) -> dict[str, Any]:
        return {"factor": context_tokens / base.context_tokens}


class Proportional(Stretch):
    """Only the ``share`` of the pairs with the highest frequencies turns; the others carry no position."""

    kind: Literal["proportional"] = "proportional"
    share: float = Field(gt=0, le=1)
    factor: Factor = 1.0

    def inv_freq(self, theta: float, head_dim: int) -> Float64[np.ndarray, "half"]:
        # int(share * head_dim // 2) is the rounding of transformers, and so part of the definition.
        turns = np.arange(head_dim // 2) < int(self.share * head_dim // 2)
        return np.where(turns, plain_inv_freq(self.final_theta(theta), head_dim) / self.factor, 0.0)

    def to_hf(self, theta: float) -> dict[str, Any]:
        return {
            "rope_type": "proportional",
            "rope_theta": self.final_theta(theta),
            "partial_rotary_factor": self.share,
            "factor": self.factor,
        }

    def _open(self, base: BaseRope, context_tokens: int) -> dict[str, Any]:
        return {}


class Nope(Method):
    """No rotation: order comes from the causal mask alone (Kazemnejad et al., 2305.19466)."""

    kind: Literal["nope"] = "nope"

    def complete(self, base: BaseRope, context_tokens: int) -> Method:
        check_head(base)
        return self

    def inv_freq(self, theta: float, head_dim: int) -> Float64[np.ndarray, "half"]:
        return np.zeros(head_dim // 2)

    def to_hf(self, theta: float) -> dict[str, Any]:
        """A proportional rope none of whose pairs turns; readers without that type refuse it."""
        return {"rope_type": "proportional", "rope_theta": theta, "partial_rotary_factor": 0.0}


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
