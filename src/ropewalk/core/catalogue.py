"""The catalogue of a language: English templates of messages, each with its translation.

``messages/zh/*.json`` has an entry for each message of the code: ``"the disk of {0} is full": "{0} 的磁盘已满"``. Holes
are numbered in the order of the English text; the translation may move them. ``{s}`` is the ending of an English
plural, which may be there or not. A text is compared with all templates; readings.py chooses among those that it fits.
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from string import Formatter

_WORD, _DIGIT = re.compile(" [A-Za-z]+"), re.compile(r"\d")
_LABEL_HOLE = re.compile(r"\{(\d+):label\}")
HOLE = "\0"
_WHOLE_WORD = re.compile(rf"(?<![A-Za-z{HOLE}])[A-Za-z]+(?![A-Za-z{HOLE}])")
"""A word that ends where letters end in any text, because no hole is beside it."""
_PROSE = re.compile(r"[a-z]+ [a-z]+")
_NUMBER, _INTEGER = re.compile(r"[\d.,]*\d%?"), re.compile(r"[\d,]*\d")
_FIGURE_AND_MORE, _PLACE_AND_MORE = re.compile(r"\d[^:;]*; "), re.compile(r"\d[\w., ]*(: |  )")
_FIGURE = re.compile(r"[\d.,]+[A-Za-z%]{0,2}")
_ENCLOSING = ("()", "[]", "``", "''", '""')


@dataclass(frozen=True, slots=True)
class Template:
    """An English message, cut at its holes (one more of ``literals`` than there are holes), and its translation."""

    literals: tuple[str, ...]
    told: str
    labels: frozenset[int] = frozenset()
    """The holes whose values may be a single word of ours, which is translated: ``{0:label}`` in the file."""

    @property
    def letters(self) -> int:
        """Of the text outside of the holes, without blanks and marks."""
        return sum(map(str.isalpha, "".join(self.literals)))

    @property
    def is_frame(self) -> bool:
        """Whether it only says whose message follows: ``source {0}: {1}``, ``error: {0}: {1} ({2})``."""
        return bool(self.literals[0].strip()) and self.framed >= 0

    @property
    def framed(self) -> int:
        """The number of the hole at the end, after a colon, that holds another message; -1 if there is none."""
        ends = self.literals[:-1] if not self.literals[-1] else ()
        if self.literals[-2:] == (" (", ")"):
            ends = self.literals[:-2]
        return len(ends) - 1 if ends and ends[-1].endswith(": ") else -1

    def encloses(self, hole: int) -> bool:
        """Whether several messages in a hole read as well as beside this one: between brackets or quotes, in a frame,
        and where the hole begins or ends both texts."""
        before, after = self.literals[hole], self.literals[hole + 1]
        begins = hole == 0 and not before and self.told.startswith("{0}")
        ends = hole == len(self.literals) - 2 and not after and self.told.endswith(f"{{{hole}}}")
        framed = self.is_frame and hole == self.framed
        return begins or ends or framed or before[-1:] + after[:1] in _ENCLOSING

    @property
    def is_unit(self) -> bool:
        """Whether it is a value and one word: ``{0} step{s}``. Any sentence may end in this word."""
        return len(self.literals) == 2 and not self.literals[0] and _WORD.fullmatch(self.literals[1]) is not None

    @property
    def takes_figures(self) -> bool:
        """Whether it is two figures and a small word: ``{0} of {1}``. Between other values the word is of the text."""
        return len(self.literals) == 3 and self.letters == len("of")

    def read(self, text: str) -> list[str] | None:
        """The values in the holes, if ``text`` is this message."""
        first, *inner, last = self.literals
        start, end = len(first), len(text) - len(last)
        if start > end or not text.startswith(first) or not text.endswith(last):
            return None
        values = []
        for number, literal in enumerate(inner, 1):
            closes = literal == " (" and last == ")" and number == len(inner)  # values may have brackets, too
            at = _find_opening(text, start, end) if closes else text.find(literal, start, end)
            if at < 0:
                return None
            values.append(text[start:at])
            start = at + len(literal)
        values.append(text[start:end])
        if not all(map(is_balanced, values)) and is_balanced(text):
            return None
        return values if self._accepts(values) else None

    def _accepts(self, values: list[str]) -> bool:
        """Whether these may be values of this message, and not a part of the message before or after it."""
        if self.is_unit:
            begins = self.told.startswith("{0}")
            return not (_PROSE.search(values[0]) or (begins and not _DIGIT.search(values[0].rpartition(" ")[2])))
        if self.takes_figures:
            return all(map(_FIGURE.fullmatch, values))
        if not self.literals[0] and _ends_in_figure(values[0]):
            return False
        last = len(values) - 1
        inside = [] if self.is_frame else [n for n in range(last + 1) if not self.told.endswith(f"{{{n}}}")]
        if not self.literals[-1] and last in inside and _PLACE_AND_MORE.match(values[last]):
            return False
        return not any(_FIGURE_AND_MORE.match(values[number]) for number in inside)


@dataclass(slots=True)
class Catalogue:
    """The templates of one language, found by their longest word."""

    entries: dict[str, str] = field(default_factory=dict)
    """As the files have them."""
    whole: dict[str, str] = field(default_factory=dict)
    """Messages without a hole."""
    by_word: dict[str, list[tuple[str, str, Template]]] = field(default_factory=lambda: defaultdict(list))
    """The others, each with its beginning and end; those without a whole word are under the empty one."""

    def add(self, english: str, told: str) -> None:
        """Take a message and its translation."""
        self.entries[english] = told
        labels, told = frozenset(map(int, _LABEL_HOLE.findall(told))), _LABEL_HOLE.sub(r"{\1}", told)
        for literals in spell_plurals(english):
            if len(literals) == 1:
                self.whole[literals[0]] = told.format()
            else:
                words = _WHOLE_WORD.findall(HOLE.join(literals))
                found = literals[0], literals[-1], Template(literals, told, labels)
                self.by_word[max(words, key=len, default="")].append(found)

    def find_all(self, text: str) -> Iterator[tuple[Template, list[str]]]:
        """The templates that a text can be read as, each with the values in its holes."""
        if text in self.whole:
            yield Template((text,), self.whole[text].replace("{", "{{").replace("}", "}}")), []
        for word in self.by_word.keys() & {"", *_WHOLE_WORD.findall(text)}:
            for first, last, each in self.by_word[word]:
                if text.startswith(first) and text.endswith(last) and (values := each.read(text)) is not None:
                    yield each, values


def is_balanced(text: str) -> bool:
    """Whether each round bracket of a text closes another one."""
    depth = 0
    for letter in text:
        depth += (letter == "(") - (letter == ")")
        if depth < 0:
            return False
    return not depth


def cut_template(template: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The literal parts of a template, and the names of the holes between them."""
    literals, holes = [""], list[str]()
    for literal, name, _, _ in Formatter().parse(template):
        literals[-1] += literal
        if name is not None:
            holes.append(name)
            literals.append("")
    return tuple(literals), tuple(holes)


def spell_plurals(template: str) -> list[tuple[str, ...]]:
    """The literal parts of a template, with and without the endings of plurals."""
    spellings = [""]
    for number, part in enumerate(template.split("{s}")):
        spellings = [f"{each}{ending}{part}" for each in spellings for ending in (("", "s") if number else ("",))]
    return [cut_template(each)[0] for each in spellings]


@cache
def read_catalogue(language: str) -> Catalogue:
    """The catalogue of a language, as it is installed."""
    found = Catalogue()
    folder = files("ropewalk") / "messages" / language
    for file in sorted(folder.iterdir(), key=lambda each: each.name):
        if file.name.endswith(".json"):
            for english, told in json.loads(file.read_text(encoding="utf-8")).items():
                if told:
                    found.add(english, told)
    return found


def _ends_in_figure(value: str) -> bool:
    """Whether a value is a clause and then a figure, such as ``1.50, 50%``: the clause is of the message before."""
    before, comma, last = value.rpartition(", ")
    return bool(comma and _NUMBER.fullmatch(last)) and not all(map(_INTEGER.fullmatch, [*before.split(", "), last]))


def _find_opening(text: str, start: int, end: int) -> int:
    """The place of the blank before the bracket that the one at ``end`` closes; brackets may be uneven."""
    depth = 1
    for at in range(end - 1, start, -1):
        depth += (text[at] == ")") - (text[at] == "(")
        if not depth and text[at - 1] == " ":
            return at - 1
    return text.rfind(" (", start, end)
