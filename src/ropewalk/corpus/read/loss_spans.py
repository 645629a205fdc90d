"""Where in a rendered conversation an answer begins and ends: what the model has to write, with the token that ends it.

A template that marks what is generated is believed. Otherwise an answer is what the rendering up to it, with the prompt
to answer, lacks of the rendering with it. Templates that write earlier turns in another way (thoughts taken out, tools
moved to the last question) are met by what stands between two messages.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from ropewalk.corpus.read.chat_template import FAILURES
from ropewalk.corpus.read.rendered_strings import LostError, Place, place_message
from ropewalk.corpus.read.turn import ANSWERS

Render = Callable[[Sequence[Mapping[str, Any]], bool], str]
"""Messages, and whether the next answer is asked for, as text."""
_PROBE = "\ue0f4"


@dataclass(frozen=True)
class Answers:
    """A rendered conversation whose answers are looked for; ``bos`` ends none."""

    text: str
    messages: Sequence[Mapping[str, Any]]
    places: Sequence[Place | None]
    render: Render
    source: str
    """The template that ``render`` runs."""
    special: re.Pattern[str]
    ends: re.Pattern[str]
    """Special tokens, and any that was added."""
    bos: str | None
    _found: dict[int, tuple[int, int] | None] = field(default_factory=dict)

    @cached_property
    def asks(self) -> bool:
        """Whether the template knows how to ask for an answer."""
        return "add_generation_prompt" in self.source

    def find(self, number: int) -> tuple[int, int] | None:
        """Start and end of what is learnt of an answer; None where that cannot be told."""
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
        if self.asks:  # the prompt to answer may open a thought, which an answer without thoughts lacks
            plain = self._try(self.messages[:number], False)
            start = None if plain is None else self._locate(plain, number, asks=False)
            if start is not None and (end := self._after_header(start)) is not None:
                return end
        header, last = self._prompt if self.asks else self._header, self.places[number - 1] if number else None
        at = self.text.find(header, last.end if last else 0) if header.strip() else -1
        return None if at < 0 else at + len(header)

    def _locate(self, before: str, number: int, *, asks: bool) -> int | None:
        """Where a rendering of all that stands before an answer ends in the text; None where it is written otherwise.

        What follows the message before is the same, whatever stands further up.
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
        """Where the answer before ends, found in order."""
        answers = [n for n, message in enumerate(self.messages[:number]) if message["role"] == ANSWERS]
        for earlier in answers:
            if earlier not in self._found:
                self._found[earlier] = self.find(earlier)
        return max((found[1] for n in answers if (found := self._found[n])), default=0)

    def _after_header(self, start: int) -> int | None:
        """Past the words that name who speaks, where they begin at ``start``."""
        return start + len(self._header) if self.text.startswith(self._header, start) else None

    def _place_alone(self, number: int) -> Place | None:
        """The place of an answer that is only text, if that stands nowhere else."""
        message, place = self.messages[number], self.places[number]
        if place is None or message.get("tool_calls") or message.get("reasoning_content"):
            return None
        return place if self.text.count(self.text[place.start : place.end]) == 1 else None

    def _find_end(self, number: int, place: Place) -> int:
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
        return following.end()  # the next speaker's token is the only sign that the answer is over

    def _find_until(self, number: int, place: Place) -> int | None:
        """Where the answer's whole turn ends; None where that cannot be told."""
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
        """What asks for an answer after a user's turn."""
        asked = [{"role": "user", "content": _PROBE}]
        plain, asking = self._try(asked, False), self._try(asked, True)
        return asking[len(plain) :] if plain is not None and asking is not None and asking.startswith(plain) else ""

    @cached_property
    def _header(self) -> str:
        """What stands between a question and its answer, of the answer's turn."""
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
