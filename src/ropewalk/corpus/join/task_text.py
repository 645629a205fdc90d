"""A document about which questions are made: its frequent words, settings, headings and lines.

Each is found once, when a question first needs it.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from weakref import WeakKeyDictionary

from ropewalk.corpus.join.frequent_words import Terms, find_frequent_words, find_han_words

_EARLY = 0.75
_FEWEST_HEADINGS = 3


class _Line:
    """An expression that matches from the beginning of a line on. The search jumps from line break to line break."""

    def __init__(self, line: re.Pattern[str]) -> None:
        self._first, self._later = (re.compile(begin + line.pattern, re.M | line.flags) for begin in ("", "\n"))

    def find_all(self, text: str) -> Iterator[tuple[int, re.Match[str]]]:
        """The start of each line that matches, and the match."""
        first = self._first.match(text)
        if first is not None:
            yield 0, first
        for match in self._later.finditer(text, 0 if first is None else first.end()):
            yield match.start() + 1, match


_SETTINGS = _Line(
    re.compile(
        r"[ \t]*([^\s=:：,，。(){}\[\]]{2,40})(?<![-+*/%&|^<>!~@])[ \t]*(?:=(?!=)|[:：](?!=|//))[ \t]*(\S[^\n]{0,79})$"
    )
)
_NUMBER = "[零〇一二两三四五六七八九十百千0-9０-９]+"
_HEADINGS: Mapping[str, Sequence[_Line]] = MappingProxyType(
    {
        "zh": (
            _Line(re.compile(rf"[ \t\u3000#]*(第{_NUMBER}[编章回][^\n]{{0,40}})$")),
            _Line(re.compile(rf"[ \t\u3000#]*(第{_NUMBER}条)(?=[\s\u3000])")),
            _Line(re.compile(r"#{1,6} +(\S[^\n]{0,79})$")),
        ),
        "en": (
            _Line(re.compile(r"[ \t]*((?:chapter|article|section)[ \t]+(?:[ivxlc]+|[0-9]+)\b[^\n]{0,60})$", re.I)),
            _Line(re.compile(r"#{1,6} +(\S[^\n]{0,79})$")),
        ),
        "code": (_Line(re.compile(r"(?:async )?(?:class|def|func|fn|function|struct)[ \t]+(\w+)(?=[ \t]*[(:{<\[])")),),
    }
)
"""What stands over a part, the largest parts first; of programs the classes and functions at the left margin."""


@dataclass(frozen=True, eq=False)
class Text:
    """A document with what questions are made of. ``terms`` are its frequent words, with all their positions. All else
    is found when a family first asks for it."""

    text: str
    language: str
    terms: Terms
    is_code: bool = False
    _strange: "WeakKeyDictionary[Text, StrangeTerms]" = field(default_factory=WeakKeyDictionary, repr=False)

    @property
    def early(self) -> int:
        """The character before which an answer must stand."""
        return int(_EARLY * len(self.text))

    def find_strange(self, other: "Text") -> "StrangeTerms":
        """The frequent words of another document that are not in this one."""
        if (found := self._strange.get(other)) is None:
            runs = self.terms.runs if other.terms.runs is not None else None  # a word of ASCII stands in a run
            folded = self.text.lower() if runs is None else runs
            found = self._strange[other] = StrangeTerms(folded, tuple(other.terms))
        return found

    @cached_property
    def early_lines(self) -> list[str]:
        """The lines in which an answer may stand."""
        return self.text[: self.early].split("\n")[:-1]

    @cached_property
    def settings(self) -> dict[str, str]:
        """The last value of each key that has another one than at first, where it stands early enough."""
        given: dict[str, tuple[str, str, int]] = {}
        for start, match in _SETTINGS.find_all(self.text):
            value = match[2].strip()
            given[match[1]] = (given[match[1]][0] if match[1] in given else value, value, start)
        return {key: last for key, (first, last, at) in given.items() if first != last and at <= self.early}

    @cached_property
    def headings(self) -> list[tuple[int, int, str]]:
        """Start, end and words of each heading of the largest parts of which the text has three or more."""
        for pattern in _HEADINGS["code" if self.is_code else self.language]:
            found = [(start, match.end(), match[1].strip()) for start, match in pattern.find_all(self.text)]
            if len(found) >= _FEWEST_HEADINGS:
                return found
        return []


@dataclass(frozen=True)
class StrangeTerms:
    """The words that are in no case in a text, whose words are given in lower case. All are searched only where one is
    asked for."""

    folded: str
    words: Sequence[str]

    @cached_property
    def has_any(self) -> bool:
        return any(word.lower() not in self.folded for word in self.words)

    @cached_property
    def all(self) -> list[str]:
        return [word for word in self.words if word.lower() not in self.folded]


def read_terms(text: str, language: str) -> Text:
    """The frequent words of a text in ``en``, ``zh`` or ``code``: whole words or identifiers, or runs of Chinese
    characters. Programs are asked about in English."""
    if language == "zh":
        return Text(text, language, find_han_words(text))
    return Text(text, "en", find_frequent_words(text), is_code=language == "code")
