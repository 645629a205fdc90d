"""The JSON Schema of a recipe or a study. Editors use it for completion, explanations and checks.

It accepts the same spellings as the program: a count with its unit, and a number as the text that YAML 1.1 makes of
``2e-5``. Every property has the text of its spec's docstring. The table of keys in the documentation is made from it.
"""

import re
from collections.abc import Mapping
from typing import Any, Literal, get_args

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from ropewalk.core.error import UserError
from ropewalk.core.quantity import COUNT, NUMBER_TEXT
from ropewalk.core.spec import Spec
from ropewalk.recipe.spec import Recipe
from ropewalk.recipe.sweep import Sweep

Kind = Literal["recipe", "study"]
KINDS: dict[Kind, type[Spec]] = {"recipe": Recipe, "study": Sweep}


class _Spelled(GenerateJsonSchema):
    """JSON Schema of the accepted input; pydantic's own schema describes the value after validation."""

    def float_schema(self, schema: core_schema.FloatSchema) -> JsonSchemaValue:
        return {"anyOf": [super().float_schema(schema), NUMBER_TEXT]}


def make_schema(kind: str) -> dict[str, Any]:
    """The schema of a ``recipe`` or a ``study`` as JSON-like data. Raises UserError for any other kind."""
    if kind not in get_args(Kind):
        raise UserError(
            f"there is no schema of {kind!r}",
            where="the command line",
            why=f"there are schemas of: {', '.join(get_args(Kind))}",
            fix="ropewalk schema recipe, or ropewalk schema study",
        )
    spec = KINDS[kind]  # type: ignore[index]
    schema = spec.model_json_schema(schema_generator=_Spelled)
    for part in (schema, *schema.get("$defs", {}).values()):
        for name, entry in part.get("properties", {}).items():
            entry["description"] = _plain(_describe(name, entry, part))
            if entry.get("title") != COUNT:
                entry.pop("title", None)  # it repeats the key's name
        if "description" in part:
            part["description"] = _plain(part["description"])
    return {"$schema": GenerateJsonSchema.schema_dialect, **schema, "title": f"ropewalk {kind}"}


def _describe(name: str, entry: Mapping[str, Any], part: Mapping[str, Any]) -> str:
    """The text of a property, or of its type if it has none; a ``kind`` gets the text of its class."""
    if "description" in entry:
        return str(entry["description"])
    inside = [branch["description"] for branch in entry.get("anyOf", ()) if "description" in branch]
    if inside:
        return str(inside[0])
    assert "const" in entry, f"{part['title']}.{name} says nothing of itself"
    return str(part["description"]).partition("\n\n")[0]


def _plain(text: str) -> str:
    """A docstring as one line of Markdown, with YAML's names for values."""
    return re.sub(r"\bNone\b", "null", re.sub(r"\s+", " ", text)).strip().replace("``", "`")
