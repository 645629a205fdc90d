"""Every key of a recipe or a study as one Markdown table: accepted values, default and meaning.

The table is made from the JSON Schema, so the documentation always agrees with the program. Methods, probes and
profiles have their own pages, so the table does not list their keys.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from ropewalk.core.quantity import COUNT
from ropewalk.recipe.schema import make_schema

BEGIN, END = "<!-- keys: begin (python benchmarks/tabulate_keys.py writes them) -->", "<!-- keys: end -->"
_PAGES = {"rope": "docs/rope.md", "probes": "docs/probe.md", "profile": "docs/corpus.md"}
_NUMBERS = {"integer": "whole number", "number": "number", "boolean": "true, false", "string": "text"}


def tabulate_keys(kind: str) -> str:
    """The table of a ``recipe`` or a ``study``: one line per key, with no blank line."""
    schema = make_schema(kind)
    defs = schema.get("$defs", {})
    lines = ["| key | takes | default | meaning |", "|---|---|---|---|"]
    for key, entry, required in _walk(schema, defs, ""):
        takes, default = _takes(entry, defs), "required" if required else _default(entry)
        cells = (f"`{key}`", takes, default, entry["description"])
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def place_table(page: str, kind: str) -> str:
    """``page`` with the table between its marks. Raises ValueError if the page has no marks."""
    begin, end = page.index(BEGIN) + len(BEGIN), page.index(END)
    return f"{page[:begin]}\n{tabulate_keys(kind)}\n{page[end:]}"


def _walk(part: Mapping[str, Any], defs: Mapping[str, Any], path: str) -> Iterator[tuple[str, Mapping[str, Any], bool]]:
    for name, entry in part["properties"].items():
        key = f"{path}{name}"
        yield key, entry, name in part.get("required", ())
        if name not in _PAGES:
            for inner, suffix in _specs(entry, defs):
                yield from _walk(inner, defs, f"{key}{suffix}.")


def _specs(entry: Mapping[str, Any], defs: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], str]]:
    """The specs that a value may be, each with a suffix that marks a list."""
    if "$ref" in entry:
        yield defs[entry["$ref"].rpartition("/")[2]], ""
    for branch in entry.get("anyOf", ()):
        yield from _specs(branch, defs)
    if isinstance(items := entry.get("items"), dict):
        for inner, suffix in _specs(items, defs):
            yield inner, f"[]{suffix}"


def _takes(entry: Mapping[str, Any], defs: Mapping[str, Any]) -> str:
    return ", ".join(dict.fromkeys(_kinds(entry, defs)))


def _kinds(entry: Mapping[str, Any], defs: Mapping[str, Any]) -> Iterator[str]:
    """The accepted values in words, without ``null``, because ``null`` is a default."""
    if entry.get("title") == COUNT:
        yield "count"
    elif "const" in entry:
        yield f"`{entry['const']}`"
    elif "enum" in entry:
        yield from (f"`{value}`" for value in entry["enum"])
    elif "anyOf" in entry or "oneOf" in entry:
        numeric = any(branch.get("type") == "number" for branch in entry.get("anyOf", ()))
        for branch in (*entry.get("anyOf", ()), *entry.get("oneOf", ())):
            if not (numeric and "pattern" in branch):  # a number that is written as text
                yield from _kinds(branch, defs)
    elif "$ref" in entry:
        yield "mapping"
    elif entry.get("type") == "array":
        parts = entry.get("prefixItems") or ([entry["items"]] if "items" in entry else [])
        held = ", ".join(dict.fromkeys(kind for part in parts for kind in _kinds(part, defs)))
        yield f"list of {len(parts)}: {held}" if "prefixItems" in entry else f"list: {held}"
    elif entry.get("type") == "object":
        yield "mapping"
    elif entry.get("type") in _NUMBERS:
        yield _NUMBERS[entry["type"]]


def _default(entry: Mapping[str, Any]) -> str:
    """The default in YAML syntax; empty for an empty list or mapping, and for a spec with its own defaults."""
    value = entry.get("default", {})
    if value in ([], {}) or isinstance(value, dict):
        return "none" if value == [] else ""
    return f"`{value}`" if isinstance(value, str) and value.isprintable() else f"`{json.dumps(value)}`"
