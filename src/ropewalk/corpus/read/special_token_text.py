"""Handles messages that spell special tokens: hides them from the template, and puts them back as plain letters.

The special tokens of a template become ids; the same letters inside a message must not. So while the template runs, the
letters are replaced by numbers between two private-use characters. Each special token in the rendered text is then a
token of the template itself. In the finished text the hidden letters stand between the same two characters, which the
tokenizer removes.
"""

import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

OPEN, CLOSE = "\ue0f0", "\ue0f1"
ANSWER_OPEN, ANSWER_CLOSE = "\ue0f2", "\ue0f3"
"""Stand around generated text where the template itself marks it. A finished text never contains them."""
_BEGIN = 3
"""Characters. Most texts contain no beginning of this length of any special token, so one quick search is enough. This
matters because some tokenizers have a thousand special tokens."""
_NUMBER = re.compile(f"{OPEN}([0-9]+){CLOSE}")
_MARKED = re.compile(f"{OPEN}(.+?){CLOSE}", re.DOTALL)


@dataclass(frozen=True)
class Letters:
    """``special``: spellings that are tokens in no message. ``tags``: spellings that are tokens only in an answer."""

    special: tuple[str, ...]
    tags: tuple[str, ...] = ()

    @cached_property
    def _hidden(self) -> tuple[str, ...]:
        return (OPEN, CLOSE, ANSWER_OPEN, ANSWER_CLOSE, *self.special, *self.tags)

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {spelled: number for number, spelled in enumerate(self._hidden)}

    @cached_property
    def _begins(self) -> re.Pattern[str]:
        return any_of([spelled[:_BEGIN] for spelled in self._hidden])

    @cached_property
    def _in_answers(self) -> re.Pattern[str]:
        return any_of(self._hidden[: -len(self.tags)] if self.tags else self._hidden)

    @cached_property
    def _elsewhere(self) -> re.Pattern[str]:
        return any_of(self._hidden)

    def hide(self, text: str, *, in_answer: bool) -> str:
        """Replace each special token that ``text`` spells by a number."""
        if not self._begins.search(text):
            return text
        pattern = self._in_answers if in_answer else self._elsewhere
        return pattern.sub(lambda found: f"{OPEN}{self._numbers[found[0]]}{CLOSE}", text)

    def put_back(self, text: str, spans: Sequence[tuple[int, int]]) -> tuple[str, list[tuple[int, int]]]:
        """Replace the numbers by marked letters. Return the text, and ``spans`` moved with it."""
        if OPEN not in text:
            return text, list(spans)
        pieces, moves, done, moved = [], [(0, 0)], 0, 0
        for found in _NUMBER.finditer(text):
            letters = f"{OPEN}{self._hidden[int(found[1])]}{CLOSE}"
            pieces += [text[done : found.start()], letters]
            done = found.end()
            moved += len(letters) - len(found[0])
            moves.append((done, moved))

        def move(at: int) -> int:
            return at + next(by for start, by in reversed(moves) if start <= at)

        return "".join([*pieces, text[done:]]), [(move(start), move(end)) for start, end in spans]


def any_of(spellings: Sequence[str]) -> re.Pattern[str]:
    """An expression that finds each of ``spellings``, the longest first."""
    return re.compile("|".join(map(re.escape, sorted(set(spellings), key=len, reverse=True))) or r"(?!)")


def take_marks(text: str, spans: Sequence[tuple[int, int]]) -> tuple[str, list[tuple[int, int]], list[tuple[int, int]]]:
    """Remove the marks from a finished text. Return the text, ``spans`` moved with it, and the spans of the letters
    that stood between marks."""
    pieces, letters, taken, at = [], [], [0], 0
    for number, piece in enumerate(_MARKED.split(text)):
        if number % 2:
            letters.append((at, at + len(piece)))
        pieces.append(piece)
        at += len(piece)
    for found in _MARKED.finditer(text):
        taken += [found.start(), found.end() - 1]

    def move(place: int) -> int:
        return place - bisect_left(taken, place, 1) + 1

    return "".join(pieces), [(move(start), move(end)) for start, end in spans], letters
