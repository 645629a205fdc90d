"""Fields inside of fields: the key ``meta.body`` names the field ``body`` of the object in the field ``meta``.

A field whose own name contains the dots comes first.
"""

from collections.abc import Mapping
from typing import Any

from ropewalk.corpus.read.turn import UnreadError


def find_value(record: Mapping[str, Any], key: str) -> Any:
    """The value of a field, which may lie inside of others; None where there is no such field."""
    if key in record:
        return record[key]
    first, dot, rest = key.partition(".")
    inner = record.get(first)
    return find_value(inner, rest) if dot and isinstance(inner, Mapping) else None


def offer_text_key(record: Mapping[str, Any]) -> str:
    """The change of a source that would read a record: its list of messages, or its longest text, which may lie in a
    field; empty where it has neither."""
    for key in ("messages", "conversations", "conversation"):
        if isinstance(record.get(key), list):
            return f"options: {{messages_key: {key}}}"
    texts = {str(key): len(held) for key, held in record.items() if isinstance(held, str)}
    for outer, inner in record.items():
        if isinstance(inner, Mapping):
            texts |= {f"{outer}.{key}": len(held) for key, held in inner.items() if isinstance(held, str)}
    return f"text_key: {max(texts, key=lambda key: texts[key])}" if texts else ""


def lift_fields(record: Mapping[str, Any], *keys: str) -> tuple[Mapping[str, Any], list[str]]:
    """The record with the fields of the objects around ``keys`` beside its own, and the names of ``keys`` in it.

    So the fields beside a nested one are seen, and none is lost in silence. Raises UnreadError where one name is in
    the object and beside it.
    """
    nested = [key for key in keys if key not in record and isinstance(record.get(key.partition(".")[0]), Mapping)]
    if not nested:
        return record, [*keys]
    first = nested[0].partition(".")[0]
    outer = {name: value for name, value in record.items() if name != first}
    if both := sorted(outer.keys() & record[first].keys()):
        raise UnreadError(f"{', '.join(map(repr, both))} is in the record and in its {first!r}: which one is meant?")
    names = [key.removeprefix(f"{first}.") if key in nested else key for key in keys]
    return lift_fields({**outer, **record[first]}, *names)
