"""Finds the answers in a rendered conversation: the text that the model has to write, with the token that ends it.

Where a template marks the generated text, these marks are used. Otherwise the conversation is rendered twice: once up
to the answer, with the prompt to answer, and once with the answer. The difference is the answer. Some templates write
earlier turns in another way (they remove thoughts, or move tools to the last question). For these templates, the text
between two messages is searched for.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from ropewalk.corpus.read.chat_template import FAILURES
from ropewalk.corpus.read.rendered_strings import LostError, StringSpan, place_message
from ropewalk.corpus.read.turn import ANSWERS

Render = Callable[[Sequence[Mapping[str, Any]], bool], str]
"""Renders messages as text. The second argument asks for the prompt of the next answer."""
_PROBE = "\ue0f4"


@dataclass(frozen=True)
class Answers:
    """A rendered conversation in which answers are searched for. The token ``bos`` ends no answer."""

    text: str
    messages: Sequence[Mapping[str, Any]]
    places: Sequence[StringSpan | None]
    render: Render
    source: str
    """The template that ``render`` runs."""
    special: re.Pattern[str]
    ends: re.Pattern[str]
    """Matches special tokens and other added tokens."""
    bos: str | None
    _found: dict[int, tuple[int, int] | None] = field(default_factory=dict)

    @cached_property
    def asks(self) -> bool:
        """Whether the template can write a prompt to answer."""
        return "add_generation_prompt" in self.source

    def find(self, number: int) -> tuple[int, int] | None:
        """Start and end of the trained part of an answer, in characters; None where they cannot be found."""
        start = self._find_start(number)
        if start is None:
            place = self._place_alone(number)
            return None if place is None else (place.start, self._find_end(number, place))
        try:
            place = place_message(self.text, self.messages[number], start, must_think=False)
        except LostError:
            return None
        return None if place is None else (start, max(place.end, self._find_end(number, place)))

    def _find_start(self, number: int) -> int | None:
        before = self._try(self.messages[:number], self.asks)
        start = None if before is None else self._locate(before, number, asks=self.asks)
        if start is not None:
            return start if self.asks or not self._header.strip() else self._after_header(start)
        if self.asks:  # the prompt to answer may open a thought; an answer without thoughts has none
            plain = self._try(self.messages[:number], False)
            start = None if plain is None else self._locate(plain, number, asks=False)
            if start is not None and (end := self._after_header(start)) is not None:
                return end
        header, last = self._prompt if self.asks else self._header, self.places[number - 1] if number else None
        at = self.text.find(header, last.end if last else 0) if header.strip() else -1
        return None if at < 0 else at + len(header)

    def _locate(self, before: str, number: int, *, asks: bool) -> int | None:
        """The end, in the text, of the rendering of all messages before an answer; None where the text differs.

        The text after the previous message does not depend on the messages before that one.
        """
        if self.text.startswith(before):
            return len(before)
        if not number or not self.messages[number - 1].get("content", "").strip():
            return None
        *earlier, last = self.messages[:number]
        probed = self._try([*earlier, {**last, "content": _PROBE}], asks)
        if probed is None or _PROBE not in probed:
            return None
        said = last["content"].strip()
        tail = probed[probed.rfind(_PROBE) + len(_PROBE) :]
        for spelled in (said, json.dumps(said, ensure_ascii=False)[1:-1]):
            at = self.text.find(spelled + tail, self._end_before(number))
            if at >= 0:
                return at + len(spelled + tail)
        return None

    def _end_before(self, number: int) -> int:
        """The end of the previous answer. Answers are searched for in order."""
        answers = [n for n, message in enumerate(self.messages[:number]) if message["role"] == ANSWERS]
        for earlier in answers:
            if earlier not in self._found:
                self._found[earlier] = self.find(earlier)
        return max((found[1] for n in answers if (found := self._found[n])), default=0)

    def _after_header(self, start: int) -> int | None:
        """The position after the words that name the speaker, if they begin at ``start``; else None."""
        return start + len(self._header) if self.text.startswith(self._header, start) else None

    def _place_alone(self, number: int) -> StringSpan | None:
        """The place of an answer that is only text, if this text occurs only once; else None."""
        message, place = self.messages[number], self.places[number]
        if place is None or message.get("tool_calls") or message.get("reasoning_content"):
            return None
        return place if self.text.count(self.text[place.start : place.end]) == 1 else None

    def _find_end(self, number: int, place: StringSpan) -> int:
        until = self._find_until(number, place)
        if until is None:
            found = self.special.search(self.text, place.end, self._next_start(number))
            return place.end if found is None or found[0] == self.bos else found.end()
        own = [found.end() for found in self.ends.finditer(self.text, place.end, until) if found[0] != self.bos]
        if own:
            return own[-1]
        end = place.end + len(self.text[place.end : until].rstrip())
        following = re.compile(rf"\s*(?:{self.ends.pattern})").match(self.text, until)
        if following is None or following[0].strip() == self.bos:
            return end
        return following.end()  # only the token of the next speaker shows that the answer ends

    def _find_until(self, number: int, place: StringSpan) -> int | None:
        """The end of the answer's whole turn; None where it cannot be found."""
        if number == len(self.messages) - 1:
            return len(self.text)
        after = self._try(self.messages[: number + 1], False)
        if after is None:
            return None
        if self.text.startswith(after) and len(after) >= place.end:
            return len(after)
        said = self.text[place.start : place.end]
        tail = after[after.rfind(said) + len(said) :] if said in after else None
        return place.end + len(tail) if tail is not None and self.text.startswith(tail, place.end) else None

    def _next_start(self, number: int) -> int:
        return next((place.start for place in self.places[number + 1 :] if place is not None), len(self.text))

    @cached_property
    def _prompt(self) -> str:
        """The text that asks for an answer after a user's turn."""
        asked = [{"role": "user", "content": _PROBE}]
        plain, asking = self._try(asked, False), self._try(asked, True)
        return asking[len(plain) :] if plain is not None and asking is not None and asking.startswith(plain) else ""

    @cached_property
    def _header(self) -> str:
        """The text of the answer's turn that stands between a question and its answer."""
        asked = [{"role": "user", "content": "?"}]
        plain = self._try(asked, False)
        answered = self._try([*asked, {"role": ANSWERS, "content": _PROBE}], False)
        if plain is None or answered is None or not answered.startswith(plain):
            return ""
        return answered[len(plain) : max(len(plain), answered.find(_PROBE))]

    def _try(self, messages: Sequence[Mapping[str, Any]], asks: bool) -> str | None:
        try:
            return self.render(messages, asks)
        except FAILURES:
            return None
