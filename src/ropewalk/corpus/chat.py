"""Conversations as documents: the model's own chat template, or a plain one, and which words are trained on.

A template's special tokens must become their ids, and the same letters inside a message must not. So the template is
rendered around placeholders, what it wrote itself is searched for special tokens, and these go on through cleaning
between two private-use characters, which are taken out of messages and believed in a conversation only.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import lru_cache
from typing import Any

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ropewalk.core.error import UserError
from ropewalk.core.record import Document
from ropewalk.corpus.reject import Reject, excerpt
from ropewalk.corpus.spec import RecordOptions, Source

MESSAGES = "messages"
"""The key of a document's metadata under which its conversation stands until it is rendered."""
MARKED = "marked"
"""The key that says that a document's special tokens are marked."""
_OPEN, _CLOSE = "\ue0f0", "\ue0f1"
_PLACE = re.compile(f"{_OPEN}([0-9]+){_CLOSE}")
_MARK = re.compile(f"{_OPEN}(.+?){_CLOSE}")
_ANSWERS = "assistant"
_OTHER_NAMES = {"human": "user", "gpt": _ANSWERS, "model": _ANSWERS, "bot": _ANSWERS}


@dataclass(frozen=True, slots=True)
class _Part:
    """Some text of a conversation. ``message`` numbers the message it is; None: the template's own words."""

    text: str
    message: int | None = None
    special: bool = False


def find_messages(record: Mapping[str, Any], options: RecordOptions) -> list[dict[str, str]] | str:
    """The conversation of a record, or what is wrong with it. Also reads ShareGPT's ``from`` and ``value``."""
    if options.messages_key is None:
        pairs = [("user", record.get(str(options.prompt_key))), (_ANSWERS, record.get(str(options.answer_key)))]
    else:
        held = record.get(options.messages_key)
        if not isinstance(held, list) or not held or not all(isinstance(entry, Mapping) for entry in held):
            return f"{options.messages_key!r} should hold a list of messages; found keys {', '.join(map(str, record))}"
        pairs = [(entry.get("role", entry.get("from")), entry.get("content", entry.get("value"))) for entry in held]
    messages = []
    for number, (role, content) in enumerate(pairs):
        if not isinstance(role, str) or not isinstance(content, str):
            return f"message {number} has no role or no text"
        if any("\ud800" <= char <= "\udfff" for char in content):
            return f"message {number} holds half a surrogate pair"
        clean = content.replace(_OPEN, "").replace(_CLOSE, "")
        messages.append({"role": _OTHER_NAMES.get(role, role), "content": clean})
    if not any(message["role"] == _ANSWERS for message in messages):
        return "nobody answers"
    return messages


def join_contents(messages: Sequence[Mapping[str, str]]) -> str:
    """What is said, without who says it."""
    return "\n\n".join(message["content"] for message in messages)


@dataclass(frozen=True)
class ChatTemplate:
    """A model's chat template with its special tokens; ``source`` is None for the plain one."""

    source: str | None
    special: tuple[str, ...]
    bos: str | None
    """What the template may put first; empty where every document begins with it anyway."""
    eos: str

    def render(self, document: Document, options: RecordOptions) -> Document | str:
        """The document as the model reads conversations, with its loss spans; or why the template refuses it."""
        messages = document.metadata[MESSAGES]
        try:
            parts = [part for part in self._lay_out(messages) if part.text or part.message is not None]
        except TemplateError as error:
            return f"the chat template refuses it: {error}"
        said = [part.message for part in parts if part.message is not None]
        if said != list(range(len(messages))):
            return f"the chat template renders messages {said} of {len(messages)}"
        end = max((at for at, part in enumerate(parts) if part.text.strip()), default=0)
        if parts[end].special and parts[end].text == self.eos:  # every document ends with it anyway
            parts = parts[:end]
        text, spans = "", []
        for number, part in enumerate(parts):
            answered = parts[number - 1].message if part.special and number else part.message
            start, text = len(text), text + (f"{_OPEN}{part.text}{_CLOSE}" if part.special else part.text)
            # The token right after an answer ends it, and has to be learnt.
            if answered is not None and messages[answered]["role"] == _ANSWERS:
                spans.append((start, len(text)))
        loss_spans = tuple(_join_spans(spans)) if options.loss == "responses" else ((0, len(text)),)
        known = {key: value for key, value in document.metadata.items() if key != MESSAGES}
        return replace(document, text=text, loss_spans=loss_spans, metadata={**known, MARKED: True})

    def _lay_out(self, messages: Sequence[Mapping[str, str]]) -> Iterator[_Part]:
        if self.source is None:
            for number, message in enumerate(messages):
                yield _Part(f"{message['role'].capitalize()}: ")
                yield _Part(message["content"], number)
                yield _Part("\n\n" if number < len(messages) - 1 else "")
            return
        rendered = self._render(messages, [f"{_OPEN}{number}{_CLOSE}" for number in range(len(messages))])
        said = [message["content"] for message in messages]
        truth = self._render(messages, said)
        pieces = _PLACE.split(rendered)
        for contents in (said, [content.strip() for content in said]):  # many templates trim
            if "".join(contents[int(piece)] if at % 2 else piece for at, piece in enumerate(pieces)) == truth:
                break
        else:
            raise TemplateError("it changes what messages say, such as taking thoughts out")
        specials = re.compile("|".join(map(re.escape, sorted(self.special, key=len, reverse=True))) or r"(?!)")
        for number, piece in enumerate(pieces):
            if number % 2:
                yield _Part(contents[int(piece)], int(piece))
                continue
            at = 0
            for found in specials.finditer(piece):
                yield _Part(piece[at : found.start()])
                yield _Part(found[0], special=True)
                at = found.end()
            yield _Part(piece[at:])

    def _render(self, messages: Sequence[Mapping[str, str]], contents: Sequence[str]) -> str:
        """What the template makes of the messages, with other contents."""
        told = [{**message, "content": content} for message, content in zip(messages, contents, strict=True)]
        keys = {"bos_token": self.bos or "", "eos_token": self.eos, "add_generation_prompt": False, "tools": None}
        return str(_compile(str(self.source)).render(messages=told, **keys))


def lay_out(document: Document, template: ChatTemplate, source: Source) -> Document | Reject:
    """A conversation as the model reads it. Raises UserError for one that does not fit where faults are errors."""
    rendered = template.render(document, source.record_options)
    if isinstance(rendered, Document):
        return rendered
    if source.faults == "error":
        raise UserError(
            f"a conversation does not fit in source {source.name}",
            where=document.id,
            why=rendered,
            fix="mend it, set faults: skip on this source to drop and count such, or choose template: plain",
        )
    size, place = len(document.text.encode()), str(document.metadata.get("place", ""))
    return Reject(document.id, "conversation refused", size, rendered, place, excerpt(document.text))


def split_marks(text: str) -> Iterator[tuple[str, bool]]:
    """The text between marked special tokens, and these, without their marks."""
    for number, piece in enumerate(_MARK.split(text)):
        if piece:
            yield piece, bool(number % 2)


def _join_spans(spans: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Spans that touch as one."""
    start, end = None, None
    for first, last in spans:
        if first != end:
            if start is not None and end is not None:
                yield start, end
            start = first
        end = last
    if start is not None and end is not None:
        yield start, end


@lru_cache(maxsize=4)
def _compile(source: str) -> Any:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )

    def refuse(message: str) -> None:
        raise TemplateError(message)

    # A date would make every day's rendering another.
    environment.globals |= {"raise_exception": refuse, "strftime_now": lambda form: date(2024, 7, 26).strftime(form)}
    return environment.from_string(source)
