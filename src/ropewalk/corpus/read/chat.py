"""Writes conversations as documents, with the model's chat template or a plain one, and marks the words to train on.

A conversation is rejected where the template leaves out, changes or refuses a part of it; the reject names the part.
Special tokens that a message spells stay plain letters (special_token_text.py). loss_spans.py finds the places of the
answers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from ropewalk.core.error import UserError
from ropewalk.core.record import Document
from ropewalk.corpus.clean.normalize import normalize_text
from ropewalk.corpus.read.chat_template import FAILURES, run_template, split_answers
from ropewalk.corpus.read.conversation import Conversation, map_strings
from ropewalk.corpus.read.loss_spans import Answers
from ropewalk.corpus.read.rendered_strings import LostError, StringSpan, check_short, check_tools, place_messages
from ropewalk.corpus.read.special_token_text import Letters, any_of
from ropewalk.corpus.read.turn import ANSWERS, Message
from ropewalk.corpus.read_options import RecordOptions
from ropewalk.corpus.spec import Source
from ropewalk.corpus.text.reject import Reject, excerpt

MESSAGES = "messages"
"""Key of a document's metadata. It holds the conversation until the conversation is rendered."""
MARKED = "marked"
"""Key of a document's metadata. It means that special tokens in the text are tokens and not letters."""
LAYOUT = 2
"""A version number. Increase it when the same conversation would be written or trained on in another way."""
UNTRAINED = "nothing to train on"
"""Reason of a reject: no answer of the conversation carries loss."""
Span = tuple[int, int]


class _RefusedError(Exception):
    """A template cannot write a conversation. The message says why; the ledger counts by ``reason``."""

    def __init__(self, why: str, reason: str = "conversation refused") -> None:
        super().__init__(why)
        self.reason = reason


class _UntrainedError(Exception):
    """No part of a conversation is trained on. The message says why."""


@dataclass(frozen=True)
class ChatTemplate:
    """A model's chat template with its special tokens. ``source`` is None for the plain template."""

    source: str | None
    tool_source: str | None
    """The template for conversations with tools, where the model has a separate one."""
    special: tuple[str, ...]
    tags: tuple[str, ...]
    """Added tokens that are not special, such as ``<think>``. In an answer they are tokens and not letters."""
    names: Mapping[str, str]
    """The template variables ``bos_token``, ``eos_token`` and so on."""

    def render(self, document: Document, options: RecordOptions) -> Document:
        """Return the document with its conversation written as the model reads it, and with its loss spans.

        Raises _RefusedError where the template cannot write it, and _UntrainedError where no part is trained on.
        """
        conversation: Conversation = document.metadata[MESSAGES]
        known = {key: value for key, value in document.metadata.items() if key != MESSAGES}
        trained = _trained(conversation, options)
        if self.source is None:
            text, spans = _lay_out_plain(conversation, trained, whole=options.loss == "all")
            return replace(document, text=text, loss_spans=tuple(spans), metadata=known)
        source = self.tool_source if conversation["tools"] and self.tool_source else self.source
        text, spans = self._lay_out(source, conversation, trained, whole=options.loss == "all")
        return replace(document, text=text, loss_spans=tuple(join_spans(spans)), metadata={**known, MARKED: True})

    @cached_property
    def _letters(self) -> Letters:
        written = tuple(tag for tag in self.tags if tag in f"{self.source}{self.tool_source}")
        return Letters(self.special, written)

    def _lay_out(
        self, source: str, conversation: Conversation, trained: set[int], *, whole: bool
    ) -> tuple[str, list[Span]]:
        messages = [self._prepare(message, source) for message in conversation["messages"]]
        tools = self._hide(conversation["tools"], in_answer=False)
        variables = {**self.names, **self._hide(conversation["arguments"], in_answer=False)}

        def render(told: Sequence[Mapping[str, Any]], asks: bool) -> str:
            return run_template(source, told, tools=tools, variables=variables, asks=asks)

        try:
            text, generated = split_answers(render(messages, False))
            check_short(messages, lambda told: render(told, False))
            places = place_messages(text, messages, trained)
            check_tools(text, tools)
        except LostError as lost:
            raise _RefusedError(_tell_lost(str(lost), messages), f"left out by the template: {lost.key}") from None
        except FAILURES as error:
            raise _RefusedError(f"the chat template refuses it: {error}") from None
        ended = text.rstrip()
        if self.names.get("eos_token") and ended.endswith(self.names["eos_token"]):
            text = ended  # eos_token already ends the document
        answers = [number for number, message in enumerate(messages) if message["role"] == ANSWERS]
        wanted = [number for number in answers if (number in trained) != whole]
        if generated:
            spans = _choose_generated(generated, places, answers, wanted)
        else:
            found = Answers(
                text, messages, places, render, source, self._special, self._ends, self.names.get("bos_token")
            )
            spans = _find_answers(found, wanted)
        spans = [(start, min(end, len(text))) for start, end in spans]
        return self._letters.put_back(text, _without(len(text), spans) if whole else spans)

    @cached_property
    def _special(self) -> Any:
        return any_of(self.special)

    @cached_property
    def _ends(self) -> Any:
        return any_of([token for token in (*self.special, *self.tags) if token.strip()])

    def _prepare(self, message: Message, source: str) -> Message:
        """A message as input of the template. Its strings are normalized and contain no special token."""
        kept = {key: value for key, value in message.items() if key not in ("loss", "role")}
        hidden: Message = self._hide(kept, in_answer=message["role"] in (ANSWERS, "system", "developer"))
        if "reasoning_content" in hidden:
            hidden["thinking"] = hidden["reasoning_content"]  # some templates read this name
        role = message["role"]
        return {"role": "system" if role == "developer" and role not in source else role, **hidden}

    def _hide(self, value: Any, *, in_answer: bool) -> Any:
        return map_strings(value, lambda text: self._letters.hide(normalize_text(text), in_answer=in_answer))


def lay_out(document: Document, template: ChatTemplate, source: Source) -> Document | Reject:
    """Write a conversation as the model reads it, or return a reject where it does not fit.

    Raises UserError where it does not fit and the source has ``faults: error``.
    """
    size, place = len(document.text.encode()), str(document.metadata.get("place", ""))
    try:
        return template.render(document, source.record_options)
    except _UntrainedError as error:  # the record asks for this, so it is no fault
        return Reject(document.id, UNTRAINED, size, str(error), place, excerpt(document.text))
    except _RefusedError as error:
        if source.faults == "error":
            raise UserError(
                f"a conversation of source {source.name} cannot be used",
                where=place or document.id,
                why=str(error),
                fix="correct it, or set faults: skip on this source to drop and count such conversations",
            ) from None
        return Reject(document.id, error.reason, size, str(error), place, excerpt(document.text))


def join_spans(spans: Sequence[Span]) -> list[Span]:
    """Sort spans, and join spans that touch or overlap."""
    joined: list[Span] = []
    for start, end in sorted(spans):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined


def _trained(conversation: Conversation, options: RecordOptions) -> set[int]:
    """Numbers of the messages that carry loss: the answers, unless their own flag or the options exclude them."""
    if conversation["weight"] == 0:
        raise _UntrainedError("its loss_weight is 0")
    messages = conversation["messages"]
    answers = [number for number, message in enumerate(messages) if message["role"] == ANSWERS]
    if options.loss == "last":
        answers = answers[-1:]
    trained = {number for number in answers if messages[number].get("loss", True)}
    if not trained and options.loss != "all":
        raise _UntrainedError("no answer has a loss, because of the fields weight, loss or train")
    return trained


def _lay_out_plain(conversation: Conversation, trained: set[int], *, whole: bool) -> tuple[str, list[Span]]:
    """Write each message as ``Role: text``, with an empty line between two messages."""
    for key in ("tools", "arguments"):
        if conversation[key]:  # type: ignore[literal-required]
            name = "tools" if key == "tools" else "chat_template_kwargs"
            raise _RefusedError(_tell_plain(name), f"no place for {name}")
    text, spans = "", []
    for number, message in enumerate(conversation["messages"]):
        lost = [key for key in ("tool_calls", "reasoning_content", "name") if key in message]
        if lost and (lost != ["name"] or message["role"] != "tool"):
            raise _RefusedError(_tell_plain(f"message {number}'s {lost[0]}"), f"no place for {lost[0]}")
        text += f"{message['role'].capitalize()}: "
        start, text = len(text), text + message["content"]
        if message["role"] == ANSWERS and (number in trained) != whole:
            spans.append((start, len(text)))
        text += "\n\n" if number < len(conversation["messages"]) - 1 else ""
    return text, _without(len(text), spans) if whole else spans


def _find_answers(found: Answers, wanted: list[int]) -> list[Span]:
    spans = [(number, found.find(number)) for number in wanted]
    unknown = [number for number, span in spans if span is None]
    if unknown:
        raise _RefusedError(f"the chat template does not show where the answer of message {unknown[0]} begins")
    return [span for _, span in spans if span is not None]


def _choose_generated(
    generated: list[Span], places: list[StringSpan | None], answers: list[int], wanted: list[int]
) -> list[Span]:
    """Of the spans that the template marks as generated, those of the ``wanted`` answers."""
    if len(generated) == len(answers):
        return [generated[answers.index(number)] for number in wanted]
    of_wanted = [place for number in wanted if (place := places[number]) is not None]
    return [(a, b) for a, b in generated if any(a < place.end and place.start < b for place in of_wanted)]


def _without(length: int, spans: Sequence[Span]) -> list[Span]:
    """The parts of a text of ``length`` characters that lie in none of ``spans``."""
    borders = [0, *(border for span in join_spans(spans) for border in span), length]
    return [(start, end) for start, end in zip(borders[::2], borders[1::2], strict=True) if start < end]


def _tell_lost(what: str, messages: Sequence[Message]) -> str:
    told = f"the chat template changes or leaves out text of messages: {what}"
    if "reasoning_content" in what and len(messages) > 2:
        return (
            f"{told} (many templates remove thoughts from earlier turns; with loss: last, only the last answer is "
            "trained on)"
        )
    return f"{told}; options.ignore_fields drops a field before it is written"


def _tell_plain(what: str) -> str:
    return (
        f"template: plain has no place for {what}: take template: chat, or list the field under options.ignore_fields"
    )
