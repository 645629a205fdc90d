"""Reads an English text as messages of a catalogue: one message, or several between marks such as ``; `` and ``, ``.

A text can often be read in several ways, because a hole takes any text: of ``a: lost, seen from b; c: lost, seen from
d`` the message ``{0}: lost, seen from {1}`` may be read once, with all the rest in its last hole, or twice. The best
reading accounts for the most letters by messages; among those, a message that stands beside another one is better than
one that took it into a hole. What no message accounts for stays as it is, letter by letter.
"""

import re
from dataclasses import dataclass, replace
from functools import lru_cache

from ropewalk.core.catalogue import Template, cut_template, read_catalogue

CUTS = re.compile(r"(; |: |(?<!\.)\. |, | \(|\)|\s{2,})")
_HAN = re.compile("[\u3400-\u9fff]")
_APART = re.compile("[\u3400-\u9fff][A-Za-z0-9\ue000-\uf8ff]|[A-Za-z0-9\ue000-\uf8ff][\u3400-\u9fff]")
_CORE = re.compile(r"([,;:.] |)(\s*)(.*?)((?<![./\s])[.;:,]|)(\s*)", re.DOTALL)
"""A text, without a mark before it, a mark after it, and blanks. A point that begins a name (``./a``) is no mark."""
_MARKS = {"; ": "；", ": ": "：", ". ": "。", ", ": "，", ".": "。", ":": "：", ";": "；", ",": "，"}
_NAME = r"""[\w.\[\]'"=-]+"""
_NAMES = re.compile(rf"(?=.*[._'=-])(?=.*\b(and|or) )((and|or) )?{_NAME}( (and|or) {_NAME})*")
"""Keys, options and words in quotes, joined to a list: ``parallel.ranks and --nodes``."""
_CONJUNCTION = re.compile(r"(?<!\S)(and|or)(?= )")
_STRONG_MARKS = ("; ", ": ", ". ")
_MOST_PARTS = 20
"""Parts of a text, between marks, that are taken together to find one message."""


@dataclass(frozen=True, slots=True)
class TextReading:
    """One way to read a text, with its translation."""

    told: str
    letters: int = 0
    """Of the English text, that messages account for."""
    faults: int = 0
    """Signs of a wrong reading: a message in a hole that may stand beside the message of the hole, and a strong mark
    in a hole or beside a text that is no message."""
    pieces: int = 0
    """Texts between marks, each of them one message or none."""
    messages: int = 0
    length: int = 0
    """Letters, blanks and marks of the English text that messages account for."""
    begins: bool = False
    """Whether the first piece is a message."""
    opens: bool = False
    """Whether it is a message that begins with words of its own, not with a value."""
    closes: bool = False
    """Whether this one message ends with words of its own."""

    @property
    def rank(self) -> tuple[int, ...]:
        """The larger, the better."""
        return self.letters, -self.faults, -self.messages, -self.pieces, self.length


@lru_cache(maxsize=16384)
def read_messages(text: str, language: str) -> TextReading:
    """The best reading of one line, as messages between marks."""
    parts = CUTS.split(text)
    if len(parts) == 1:
        return _read_message(text, language) or TextReading(_join_names(text), pieces=1)
    levels = _count_open(parts)
    best = [TextReading("")] * (len(parts) + 2)  # of the text from a part on; parts and marks take turns
    for at in range(len(parts) - 1, -1, -2):
        ends = [*range(at + 1, min(len(parts), at + 2 * _MOST_PARTS) + 1, 2), len(parts)]
        options = [_join_best(parts, at, at + 1, best, TextReading(_join_names(parts[at]), pieces=1), told=False)]
        for end in dict.fromkeys(ends):
            if levels is None or levels[at] == levels[end]:
                found = _read_message("".join(parts[at:end]), language)
                options += [] if found is None else [_join_best(parts, at, end, best, found, told=True)]
        best[at] = max(options, key=lambda each: each.rank)
    return best[0]


def _join_best(
    parts: list[str], at: int, end: int, best: list[TextReading], first: TextReading, *, told: bool
) -> TextReading:
    """A reading of the parts from ``at`` to ``end``, the mark after it, and the best reading of what follows."""
    if end == len(parts):
        return replace(first, begins=told)
    mark, rest = parts[end], best[end + 1]
    seam = (told and (first.closes or rest.begins)) or rest.opens  # elsewhere the mark may be of a value
    faults = int(mark in _STRONG_MARKS and not seam)
    mark = _MARKS.get(mark, mark) if seam else mark
    return TextReading(
        f"{first.told}{mark}{rest.told}",
        first.letters + rest.letters,
        first.faults + rest.faults + faults,
        first.pieces + rest.pieces,
        first.messages + rest.messages,
        first.length + rest.length,
        begins=told,
        opens=first.opens,
    )


def _count_open(parts: list[str]) -> list[int] | None:
    """The brackets that are open at each part; None if brackets of the text do not close each other."""
    levels, depth = [0], 0
    for part in parts:
        for letter in part:
            depth += (letter == "(") - (letter == ")")
            if depth < 0:
                return None
        levels.append(depth)
    return None if depth else levels


@lru_cache(maxsize=65536)
def _read_message(text: str, language: str) -> TextReading | None:
    """The best reading of a text as one message, with the mark before and after it; None if it is none."""
    edges = _CORE.fullmatch(text)
    assert edges is not None
    mark, blanks, core, after, end = edges.groups()
    if " " not in core:
        return None
    readings = [_fill_template(*found, language) for found in read_catalogue(language).find_all(core)]
    best = max(readings, key=lambda each: each.rank, default=None)
    if best is None:
        return None
    after = _MARKS[after] if after and _HAN.search(best.told) else after
    return replace(best, told=f"{_MARKS.get(mark, mark)}{blanks}{best.told}{after}{end}")


def _fill_template(template: Template, values: list[str], language: str) -> TextReading:
    """A message with its values, which may be messages themselves."""
    words = read_catalogue(language).whole
    read = [
        TextReading(words[value], pieces=1)
        if number in template.labels and value in words
        else read_messages(value, language)
        for number, value in enumerate(values)
    ]
    faults = sum(each.faults for each in read)
    for number, each in enumerate(read):
        if each.letters and not template.encloses(number):
            faults += 2 * each.pieces - 1
    told = _fill(template.told, [each.told for each in read])
    return TextReading(
        told,
        (1 if template.takes_figures else template.letters) + sum(each.letters for each in read),
        faults,
        pieces=1,
        messages=1 + sum(each.messages for each in read),
        length=sum(map(len, template.literals)) + sum(each.length for each in read),
        opens=bool(template.literals[0]),
        closes=bool(template.literals[-1]),
    )


def _fill(told: str, values: list[str]) -> str:
    """A translation with its values: a blank between a Chinese letter and an English word, and none between Chinese."""
    literals, holes = cut_template(told)
    filled = literals[0]
    for name, literal in zip(holes, literals[1:], strict=True):
        value = values[int(name)]
        if _HAN.match(value) and filled.endswith(" ") and _HAN.match(filled[-2:-1]):
            filled = filled[:-1]  # it is there for an English word
        for part in (value, literal):
            filled += f" {part}" if _APART.fullmatch(filled[-1:] + part[:1]) else part
    return filled


def _join_names(text: str) -> str:
    """A list of names with Chinese words between them; any other text as it is."""
    if not _NAMES.fullmatch(text):
        return text
    return _CONJUNCTION.sub(lambda found: "和" if found.group() == "and" else "或", text)
