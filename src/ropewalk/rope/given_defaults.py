"""Which keys of a method are given with their default: on a base that is scaled already this decides frequencies.

There a method takes the keys that were not given from the base, and those that were given from the recipe, also where
the value is the default (method.py). Two methods with the same values may thus be two models, so digests and
comparisons need these names beside the values.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter

from ropewalk.rope.scaling import Rope

_ROPE: TypeAdapter[Rope] = TypeAdapter(Rope)


def dump_marked(rope: Rope) -> dict[str, Any]:
    """All values as JSON, with the names of those that were given with their default under ``given``, if there are."""
    keys, fields = rope.model_dump(mode="json"), type(rope).model_fields
    if rope.model_fields_set >= set(fields):  # a run folder of version 0.1 has every key, given or not
        return keys
    given = sorted(
        name
        for name in rope.model_fields_set - {"kind"}
        if (value := getattr(rope, name)) is not None and value == fields[name].default
    )
    return {**keys, "given": given} if given else keys


def read_marked_stage(stage: Mapping[str, Any]) -> dict[str, Any]:
    """A stage of a recipe's file with ``dump_marked`` of its ropes."""
    lines = [{**line, "rope": line.get("rope") and _read_marked(line["rope"])} for line in stage.get("layers") or ()]
    return {**stage, "rope": _read_marked(stage.get("rope") or {}), "layers": lines}


def _read_marked(keys: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return dump_marked(_ROPE.validate_python(dict(keys)))
    except ValueError:  # a file of another version
        return dict(keys)
