"""Searches for every string of a conversation in the text that its template wrote, and returns the places.

A template may trim a string or write it as JSON, and may write a system prompt late. If it leaves out or changes a
string, the conversation is refused and the error names the string.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ropewalk.corpus.read.turn import ANSWERS

_SHORT = 16
"""Characters. A shorter string may also stand in the template's own words, or in another message."""
_THINK = re.compile(r"</?think>")
_UNSEEN_KEYS = frozenset({"type", "strict", "$schema", "format"})
"""Keys of a tool's description that are not searched for, because templates write types in their own words."""


class LostError(Exception):
    """A string that the template changes or leaves out: its name, and the key under which it stands."""

    def __init__(self, what: str, key: str) -> None:
        super().__init__(what)
        self.key = key


class StringSpan(NamedTuple):
    """The place of a message's strings, in characters: the start of the first string and the end of the last."""

    start: int
    end: int


def place_messages(text: str, messages: Sequence[Mapping[str, Any]], trained: set[int]) -> list[StringSpan | None]:
    """The place of each message in ``text``; None for a message without a string. Raises LostError.

    A short string may be found too early, in words of the template. The strings after it are found nevertheless.
    """
    places: list[StringSpan | None] = []
    at = 0
    for number, message in enumerate(messages):
        is_system = message["role"] in ("system", "developer")
        try:
            place = place_message(text, message, 0 if is_system else at, must_think=number in trained)
        except LostError as lost:
            raise LostError(f"message {number}'s {lost}", lost.key) from None
        places.append(place)
        at = at if is_system or place is None else place.end
    return places


def place_message(text: str, message: Mapping[str, Any], at: int, *, must_think: bool) -> StringSpan | None:
    """The place of a message's strings, searched for from ``at`` on. Raises LostError with the key of a missing string.

    Thoughts may be missing unless ``must_think`` is set, because templates remove them from earlier turns.
    """
    found: list[StringSpan] = []
    for key, leaf in _leaves(message):
        place = _find(text, leaf, at)
        if place is None and key == "content" and message["role"] == ANSWERS:
            place = _find_thinking(text, leaf, at, must_think=must_think)
        if place is not None:
            found.append(place)
        elif key != "reasoning_content" or must_think:
            raise LostError(key, key)
    return StringSpan(min(place.start for place in found), max(place.end for place in found)) if found else None


def check_short(messages: Sequence[Mapping[str, Any]], render: Callable[[Sequence[Mapping[str, Any]]], str]) -> None:
    """Raise LostError unless ``render`` writes the contents that are too short to be searched for."""
    short = [number for number, message in enumerate(messages) if 0 < len(message["content"]) < _SHORT]
    probes = {number: f"probe{number}of{_SHORT}q" for number in short}
    if short:
        told = [
            {**message, "content": probes.get(number, message["content"])} for number, message in enumerate(messages)
        ]
        text = render(told)
        for number, probe in probes.items():
            if probe not in text:
                raise LostError(f"message {number}'s content", "content")


def check_tools(text: str, tools: Sequence[Mapping[str, Any]]) -> None:
    """Raise LostError unless every tool stands in ``text`` with its description."""
    names = [tool.get("function", tool).get("name", "") for tool in tools]
    if tools and not any(_find(text, name, 0) for name in names):
        raise LostError("'tools': this template has no tools", "tools")
    for number, tool in enumerate(tools):
        for key, leaf in _strings(tool, "tool"):
            if key not in _UNSEEN_KEYS and _find(text, leaf, 0) is None:
                raise LostError(f"tools[{number}]'s {key}", "tools")


def _leaves(message: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield ``(key, string)`` for every string of a message that the text must contain."""
    for key in ("reasoning_content", "content"):
        if message.get(key):
            yield key, message[key]
    if message["role"] != "tool" and message.get("name"):
        yield "name", message["name"]
    for call in message.get("tool_calls", ()):
        function = call["function"]
        yield "tool_calls", function["name"]
        for leaf in _all_strings(function["arguments"]):
            yield "tool_calls", leaf


def _strings(value: Any, key: str) -> Iterator[tuple[str, str]]:
    """Yield every string within an object, with the key under which it stands."""
    if isinstance(value, str):
        if value:
            yield key, value
    elif isinstance(value, Mapping):
        for name, held in value.items():
            if key == "properties":
                yield key, name
            yield from _strings(held, name if key != "properties" else "property")
    elif isinstance(value, list | tuple):
        for held in value:
            yield from _strings(held, key)


def _all_strings(value: Any) -> Iterator[str]:
    """Yield every string within an object, including its keys."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, held in value.items():
            yield str(name)
            yield from _all_strings(held)
    elif isinstance(value, list | tuple):
        for held in value:
            yield from _all_strings(held)


def _find(text: str, leaf: str, start: int) -> StringSpan | None:
    for spelled in _spellings(leaf):
        at = text.find(spelled, start)
        if at >= 0:
            return StringSpan(at, at + len(spelled))
    return None


def _spellings(leaf: str) -> Iterator[str]:
    """Yield the forms in which a template may write a string: unchanged, trimmed, as JSON, as JSON within JSON."""
    yield leaf
    yield leaf.strip()
    for ascii_only in (False, True):
        once = json.dumps(leaf, ensure_ascii=ascii_only)[1:-1]
        yield once
        yield json.dumps(once, ensure_ascii=ascii_only)[1:-1]


def _find_thinking(text: str, leaf: str, start: int, *, must_think: bool) -> StringSpan | None:
    """The place of an answer with its thoughts between tags. Templates split such an answer."""
    *thoughts, said = _THINK.split(leaf)
    if not thoughts:
        return None
    at, first = start, None
    for part in [part for part in thoughts if part.strip()]:
        found = _find(text, part, at)
        if found is None and must_think:
            return None
        if found is not None:
            at, first = found.end, found.start if first is None else first
    found = _find(text, said, at)
    return None if found is None else StringSpan(found.start if first is None else first, found.end)
