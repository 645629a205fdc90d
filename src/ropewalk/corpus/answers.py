"""Where in a rendered conversation an answer begins and ends: what the model has to write, with the token that ends it.

A template that marks what is generated is believed. Otherwise an answer is what the rendering up to it, with the prompt
to answer, lacks of the rendering with it. Templates that write earlier turns in another way (thoughts taken out, tools
moved to the last question) are met by what stands between two messages.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ropewalk.corpus.chat_template import FAILURES
from ropewalk.corpus.leaves import LostError, Place, place_message

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
    asks: bool
    """Whether the template knows how to ask for an answer."""
    special: re.Pattern[str]
    ends: re.Pattern[str]
    """Special tokens, and any that was added."""
    bos: str | None

    def find(self, number: int) -> tuple[int, int] | None:
        """Start and end of what is learnt of an answer; None where that cannot be told."""
        before, place = self._try(self.messages[:number], self.asks), self.places[number]
        is_prefix = before is not None and self.text.startswith(before)
        if is_prefix and before is not None:  # a short answer may have been found in the words before it
            place = self._place_after(number, len(before)) or place
        start = None if place is None else self._find_start(number, place, before, is_prefix=is_prefix)
        if start is None or place is None:
            return None
        return min(start, place.start), max(place.end, self._find_end(number, place))

    def _place_after(self, number: int, at: int) -> Place | None:
        try:
            return place_message(self.text, self.messages[number], at, must_think=False)
        except LostError:
            return None

    def _find_start(self, number: int, place: Place, before: str | None, *, is_prefix: bool) -> int | None:
        last = self.places[number - 1] if number else None
        if before is not None and is_prefix and len(before) <= place.start:
            return self._after_header(len(before), place)
        if before is not None:
            if self.asks:  # the prompt to answer may open a thought, which earlier turns then lack
                plain = self._try(self.messages[:number], False)
                common = _count_common(before, self.text)
                if plain is not None and self.text.startswith(plain) and common >= len(plain):
                    return min(common, place.start)
            if last is not None:  # what follows the message before is the same, whatever stands further up
                tail = _tail(before, self.text[last.start : last.end])
                fits = tail is not None and self.text.startswith(tail, last.end)
                if tail is not None and fits and last.end + len(tail) <= place.start:
                    return self._after_header(last.end + len(tail), place)
        header = self._prompt if self.asks else self._header
        at = self.text.rfind(header, last.end if last else 0, place.start) if header.strip() else -1
        if at >= 0:
            return at + len(header)
        message = self.messages[number]
        return None if message.get("tool_calls") or message.get("reasoning_content") else place.start

    def _after_header(self, start: int, place: Place) -> int:
        """Past the words that name who speaks, where the template cannot be asked for them."""
        if self.asks or not self._header.strip():
            return start
        if self.text.startswith(self._header, start):
            return min(start + len(self._header), place.start)
        return place.start

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
        tail = _tail(after, self.text[place.start : place.end])
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
        answered = self._try([*asked, {"role": "assistant", "content": _PROBE}], False)
        if plain is None or answered is None or not answered.startswith(plain):
            return ""
        return answered[len(plain) : max(len(plain), answered.find(_PROBE))]

    def _try(self, messages: Sequence[Mapping[str, Any]], asks: bool) -> str | None:
        try:
            return self.render(messages, asks)
        except FAILURES:
            return None


def _count_common(one: str, other: str) -> int:
    """How many characters two texts begin with in common."""
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _tail(text: str, said: str) -> str | None:
    """What follows the last place where something is said."""
    at = text.rfind(said)
    return None if at < 0 else text[at + len(said) :]
