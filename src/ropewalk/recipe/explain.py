"""Explains faulty keys of a recipe in words, and names the places where the keys would be valid.

pydantic puts the branches of a union into a key's path (``rope.theta.theta``) and reports every branch that did not
fit. Here a path is the path in the file. A fault that only follows from another fault is left out.
"""

import difflib
import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ropewalk.core.error import UserError
from ropewalk.core.spec import Spec
from ropewalk.corpus.read_options import FileOptions, HubOptions
from ropewalk.recipe.other_trainers import VALUES, translate

_SHOWN_FAULTS = 5
_SHOWN_PLACES = 3
_SHOWN_BESIDE = 10
_SURE = 0.8  # similarity from which a key beside an unknown one is meant, even if another place has that very name
_BRANCH = re.compile(r"[A-Z]|function-|literal\[|str$")  # pydantic's names for the branches of a union
_SHAPES = {
    "tuple_type": "must be a list, such as [...]; write brackets also around a single value",
    "list_type": "must be a list, such as [...]; write brackets also around a single value",
    "model_type": "must be a mapping, such as {key: value}",
    "dict_type": "must be a mapping, such as {key: value}",
    "too_short": "has too few entries",
    "string_pattern_mismatch": "may have letters a to z, digits, _ . - and begins with a letter or digit: web_zh",
}
_FOLLOWS = ("too_short", "string_type", "dict_type", "model_type", "literal_error")


def explain(error: ValidationError, *, kind: type[Spec], data: Any, where: str, called: str) -> UserError:
    """One error with every fault of ``data`` as a ``kind``.

    ``where`` is the file. ``called`` is the user's word for the kind: recipe or study.
    """
    faults = _keep_causes(error.errors(include_url=False))
    known = find_places(kind)
    shown = [(".".join(map(str, _trace(fault["loc"], data))), fault) for fault in faults[:_SHOWN_FAULTS]]
    lines = [_describe(key, fault, known) for key, fault in shown]
    if len(faults) > _SHOWN_FAULTS:
        lines.append(f"and {len(faults) - _SHOWN_FAULTS} more")
    keys = ", ".join(dict.fromkeys(key for key, _ in shown if key))
    return UserError(
        f"the {called} has faults in {keys}" if keys else f"the {called} has a fault",
        where=where,
        why="\n         ".join(lines),
        fix=f"correct these keys; docs/{called}.md lists every key",
    )


@functools.cache
def find_places(kind: type[Spec]) -> Mapping[str, Sequence[str]]:
    """Every key with the places where it is valid, such as ``stages[].lr``."""
    places: dict[str, list[str]] = {}
    schema = TypeAdapter(kind).json_schema()
    options = [f"corpus.sources[].options.{name}" for spec in (FileOptions, HubOptions) for name in spec.model_fields]
    for place in [*_walk(schema, schema.get("$defs", {}), "", ()), *(options if "corpus" in kind.model_fields else [])]:
        held = places.setdefault(place.rpartition(".")[2], [])
        if place not in held:
            held.append(place)
    return places


def _keep_causes(faults: Sequence[Any]) -> list[Any]:
    """Remove faults that only follow from another fault.

    Examples: "too short" where an item is faulty, and "not text" where a mapping is given and the mapping is faulty.
    Unknown keys come first: if one key is misspelt, another one is missing.
    """
    inner = [fault["loc"] for fault in faults]

    def follows(fault: Any) -> bool:
        place = fault["loc"]
        while place and _BRANCH.match(str(place[-1])):
            place = place[:-1]
        deeper = any(len(other) > len(fault["loc"]) and other[: len(place)] == place for other in inner)
        beside = any(
            other["type"] == "literal_error" and other["loc"][: len(place)] == place
            for other in faults
            if other is not fault
        )
        return fault["type"] in _FOLLOWS and (deeper or (beside and fault["type"] != "literal_error"))

    causes = [fault for fault in faults if not follows(fault)]
    return sorted(causes, key=lambda fault: fault["type"] != "extra_forbidden")


def _trace(location: Sequence[int | str], data: Any) -> list[int | str]:
    """The path in the file: without the branch of a union, which is a class name or the value of ``kind``."""
    path: list[int | str] = []
    tagged = False
    for part in location:
        inside = isinstance(data, dict) and part in data
        if isinstance(data, list) and isinstance(part, int):
            inside = part < len(data)  # a list that is too short lacks the entry that the fault names
        if not tagged and isinstance(data, dict) and data.get("kind") == part:
            tagged = True
        elif inside or not _BRANCH.match(str(part)):
            path.append(part)
            data, tagged = (data[part] if inside else None), False
    return path


def _describe(key: str, fault: Any, known: Mapping[str, Sequence[str]]) -> str:
    if fault["type"] == "extra_forbidden":
        return f"{key}: there is no such key{_point(key, known)}"
    if fault["type"] == "missing":
        return f"{key}: missing"
    if fault["type"] == "union_tag_not_found":
        return f"{key}: its key `kind` is missing"
    if fault["type"] == "union_tag_invalid":
        tag, kinds = fault["ctx"]["tag"], fault["ctx"]["expected_tags"]
        return f"{key}.kind: {tag!r} is not one of {kinds}{_suggest(tag, kinds)}"
    if fault["type"] == "model_attributes_type":
        return f"{key}: must be a mapping, such as {{kind: ...}} (given: {fault['input']!r})"
    given = repr(fault["input"])
    message = _SHAPES.get(fault["type"], fault["msg"].removeprefix("Value error, "))
    if fault["type"] == "literal_error":
        message += _suggest(fault["input"], fault["ctx"]["expected"])
    if fault["type"] == "string_type" and isinstance(fault["input"], int | float | date):
        message += "; put it in quotes to make it text"
    return (f"{key}: {message}" if key else message) + (
        f" (given: {given})" if len(given) < 60 and given not in message else ""
    )


def _suggest(given: object, expected: str) -> str:
    """A hint with the one of ``expected`` ('a', 'b' or 'c') that is closest to ``given``, if any is close."""
    choices, word = re.findall(r"'([^']*)'", expected), str(given)
    near = [VALUES[word]] if VALUES.get(word) in choices else []
    near += difflib.get_close_matches(word.lower().replace("-", "_"), choices, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _point(key: str, known: Mapping[str, Sequence[str]]) -> str:
    """A hint about an unknown key: our key for another trainer's, a similar one beside it, its place, or all beside it.

    Keys of the same place come first: ``parallel.rank`` means ``parallel.ranks``, although adapters have a ``rank``.
    """
    place, _, name = re.sub(r"\.\d+(?=\.|$)", "[]", key).rpartition(".")
    beside = sorted(own for own, places in known.items() if f"{place}.{own}".removeprefix(".") in places)
    if instead := translate(name):
        return f"; {instead}"
    if near := difflib.get_close_matches(name, beside, n=1, cutoff=_SURE):
        return f"; did you mean {near[0]}?"
    if name in known:
        return f" here; it belongs at {', '.join(known[name][:_SHOWN_PLACES])}"
    near = difflib.get_close_matches(name, beside, n=1)
    if not near and 0 < len(beside) <= _SHOWN_BESIDE:
        return f"; there are {', '.join(beside)}"
    near = near or difflib.get_close_matches(name, sorted(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _walk(node: Any, defs: Mapping[str, Any], path: str, above: tuple[str, ...]) -> Iterator[str]:
    """All paths below a node of a JSON schema; a spec that contains its own kind is entered once."""
    if reference := node.get("$ref"):
        name = reference.rpartition("/")[2]
        if name not in above:
            yield from _walk(defs[name], defs, path, (*above, name))
        return
    for key, inner in node.get("properties", {}).items():
        place = f"{path}.{key}" if path else key
        yield place
        yield from _walk(inner, defs, place, above)
    for inner in (*node.get("anyOf", ()), *node.get("oneOf", ())):
        yield from _walk(inner, defs, path, above)
    if isinstance(items := node.get("items"), dict):
        yield from _walk(items, defs, f"{path}[]", above)
