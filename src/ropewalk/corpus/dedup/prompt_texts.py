"""Reads the texts of evaluation prompts, from any file that a source can read.

A record gives a prompt for each key that may hold one, so that a long passage and a short question are judged
separately. A text file gives its paragraphs, or its lines where it has no empty line.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ropewalk.core.error import UserError
from ropewalk.corpus.read.bad_input import Place, WholeText
from ropewalk.corpus.read.nested_keys import find_value
from ropewalk.corpus.read.source import read_found
from ropewalk.corpus.spec import Source
from ropewalk.corpus.text.reject import Reject

TEXT_KEYS = (
    "text", "prompt", "question", "problem", "query", "instruction", "input", "context", "passage", "article", "story",
    "content", "conversation", "conversations", "messages",
)  # fmt: skip
_SAID = ("content", "value", "text")
_EMPTY_LINE = re.compile(r"\n[ \t]*\n")


def read_prompt_texts(source: Source, text_key: str | None) -> Iterator[tuple[str, str]]:
    """Yield ``(name, text)`` of each prompt. The text is that of ``text_key`` or, if this is None, of every known key.

    Raises UserError for a record without any of these keys, and for a member of an archive that is not read.
    """
    for found in read_found(source):
        if isinstance(found, Reject):  # only of archives: faults of prompts are errors
            raise UserError(
                "evaluation prompts cannot be read",
                where=f"corpus.decontaminate: {found.place}",
                why=f"{found.reason}: {found.why}",
                fix="leave it out of the archive, so that no prompt is missed",
            )
        place, held = found
        if isinstance(held, WholeText):
            yield from _part_text(held.text, place)
        elif isinstance(held, str):
            yield place.id, held
        else:
            yield from _find_texts(held, place, text_key)


def _part_text(text: str, place: Place) -> Iterator[tuple[str, str]]:
    parts = _EMPTY_LINE.split(text) if _EMPTY_LINE.search(text.strip()) else text.split("\n")
    said = [part for part in parts if part.strip()]
    if len(said) == 1:
        yield place.name, said[0]
    else:
        yield from ((f"{place.name}, prompt {number}", part) for number, part in enumerate(said, 1))


def _find_texts(record: object, place: Place, text_key: str | None) -> Iterator[tuple[str, str]]:
    keys = [text_key] if text_key is not None else TEXT_KEYS
    entry = record if isinstance(record, Mapping) else {}
    texts = {key: _text_of(find_value(entry, key)) for key in keys}
    known = {key: text for key, text in texts.items() if text is not None}
    if not known:
        held = f"keys {', '.join(map(str, entry))}" if entry else f"a {type(record).__name__}"
        raise UserError(
            "a record contains no evaluation prompt",
            where=f"corpus.decontaminate: {place}",
            why=f"none of {', '.join(keys)} is a text; found {held}",
            fix="set corpus.decontaminate.text_key to the right key",
        )
    name = str(entry.get("id", place.id))
    for key, text in known.items():
        if text.strip():
            yield (name if len(known) == 1 else f"{name}, {key}"), text


def _text_of(value: Any) -> str | None:
    """A text, or the contents of a conversation as one text; None for any other value."""
    if isinstance(value, str):
        return value
    if not isinstance(value, Sequence):
        return None
    said = [next((entry[key] for key in _SAID if key in entry), None) for entry in value if isinstance(entry, Mapping)]
    texts = [each if isinstance(each, str) else _text_of(each) for each in said if each is not None]
    return "\n\n".join(text for text in texts if text) if texts else None
