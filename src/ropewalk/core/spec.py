"""The base class of every specification: a frozen value that refuses unknown keys."""

from pydantic import BaseModel, ConfigDict


class Spec(BaseModel):
    """A part of a recipe: frozen, validated once, hashable by its digest; an unknown key is an error."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True, use_attribute_docstrings=True
    )
