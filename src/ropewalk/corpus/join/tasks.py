"""Makes questions about a document from its own text, with answers that a program can check.

Only what is unambiguous is asked: a word counts as a word, never as a part of a longer one; a sentence or line is asked
for only if it stands there once; the answer stands in the first three quarters of the document. Chinese words are runs
of two to four characters that stand beside many others on either side.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from ropewalk.corpus.join.task_text import Text
from ropewalk.corpus.join.task_wordings import ANSWERS, GAP, QUESTIONS
from ropewalk.corpus.task_rules import Family

_CLOSING = "\"'”’)]」』）"
_ENDING = {"", "\n", *".!?。！？:：;；", *_CLOSING}
_LINE = 300
_MARKS = "。！？.!?"
_CLOSE = f"[{re.escape(_CLOSING)}]*"
_INSIDE_SENTENCE = rf"(?:[^\n。！？.!?]+|[.!?](?!{_CLOSE}(?:\s|$)))++"
SENTENCES = re.compile(rf"({_INSIDE_SENTENCE}(?:[。！？]{_CLOSE}|[.!?]{_CLOSE}(?=\s|$)))|{_INSIDE_SENTENCE}")
"""A sentence, or without the group the rest of a line that ends none: it is taken whole, as no sentence begins in it. A
point that ends no sentence, as in a number, has a letter or digit behind it."""
_IN_PLACE = re.compile(r"[ \t]*[-+*/%&|^<>@]+=")
_INSIDE = re.compile(r"[ \t)\]{#]|$")
"""Begins a line that does not end a definition at the left margin."""
_LONGEST_QUOTE = 240
_SHORTEST_LINE = MappingProxyType({"en": 40, "zh": 18})
_CLEARLY_MORE = 1.25
_ABSENT = 0.12
"""Share of counts that ask for a word that is not there."""


class Task(NamedTuple):
    """A question and its answer. ``about`` holds the words that it is about."""

    family: Family
    about: tuple[str, ...]
    question: str
    answer: str


def make_task(text: Text, family: Family, random: np.random.Generator, *, other: Text | None = None) -> Task | None:
    """A task of this family, or None where the text has nothing that is unambiguous. ``other`` is another document,
    whose words are asked for where they are not."""
    return _MAKERS[family](text, random, other)


def _count(text: Text, random: np.random.Generator, other: Text | None) -> Task | None:
    strange = text.find_strange(other) if other else None
    if strange and strange.has_any and random.random() < _ABSENT:
        word = _draw(strange.all, random)
        return _ask(text, "count", (word,), _draw(ANSWERS[text.language]["absent"], random), random)
    if not text.terms:
        return None
    word = _draw([*text.terms], random)
    answer = _draw(ANSWERS[text.language]["count"], random).format(x=text.terms.count(word))
    return _ask(text, "count", (word,), answer, random)


def _order(text: Text, random: np.random.Generator, other: Text | None) -> Task | None:
    if len(text.terms) < 2:
        return None
    words = _draw_some([*text.terms], 2, random)
    first = min(words, key=lambda word: text.terms[word][0])
    if text.terms[first][0] > text.early:
        return None
    form = _draw(ANSWERS[text.language]["order"], random)
    return _ask(text, "order", tuple(words), form.format(x=first), random)


def _mention(text: Text, random: np.random.Generator, other: Text | None) -> Task | None:
    if not text.terms:
        return None
    word, last = _draw([*text.terms], random), bool(random.integers(2))
    at = text.terms[word][-1 if last else 0]
    sentence = _sentence_around(text, at)
    if sentence is None or at > text.early or text.text.count(sentence) > 1:
        return None
    return _ask(text, "mention", (word,), sentence, random, wording="mention_last" if last else "mention_first")


def _cloze(text: Text, random: np.random.Generator, other: Text | None) -> Task | None:
    if not text.terms:
        return None
    word = _draw([*text.terms], random)
    sentence = _sentence_around(text, text.terms[word][-1])
    if text.terms[word][-1] > text.early:
        return None
    far = text.terms[word][-1] - text.terms[word][-2] > len(text.text) // 8
    if sentence is None or not far or sentence.count(word) > 1 or text.text.count(sentence) > 1:
        return None
    return _ask(text, "cloze", (sentence.replace(word, GAP[text.language]),), word, random)


def _recall(text: Text, random: np.random.Generator, other: Text | None) -> Task | None:
    lines = text.early_lines
    line = _draw(lines, random).strip() if lines else ""
    head = line[: len(line) // 3] if text.language == "zh" else " ".join(line.split(" ")[: len(line.split(" ")) // 3])
    if not _SHORTEST_LINE[text.language] <= len(line) <= _LONGEST_QUOTE or len(head) < 6 or text.text.count(head) > 1:
        return None
    return _ask(text, "recall", (head,), line[len(head) :].strip(), random)


def _overwrite(text: Text, random: np.random.Generator, other: Text | None) -> Task | None:
    changed = text.settings
    if not changed:
        return None
    key = _draw([*changed], random)
    if _changes_in_place(text.text, key):
        return None
    return _ask(text, "overwrite", (key,), changed[key], random)


def _changes_in_place(text: str, key: str) -> bool:
    """Whether a line begins with ``key`` and an operator such as ``+=``."""
    at = text.find(key)
    while at >= 0:
        begins_line = not text[text.rfind("\n", 0, at) + 1 : at].strip(" \t")
        if begins_line and _IN_PLACE.match(text, at + len(key)):
            return True
        at = text.find(key, at + 1)
    return False


def _heading(text: Text, random: np.random.Generator, other: Text | None) -> Task | None:
    if not text.terms:
        return None
    word = _draw([*text.terms], random)
    if not text.headings:  # after the draw: it moves those of the questions behind it
        return None
    at = text.terms[word][0]
    over = _find_heading(text, at)
    if over is None or at > text.early:
        return None
    wording = "heading_code" if text.is_code else "heading"
    return _ask(text, "heading", (word,), over, random, wording=wording)


def _find_heading(text: Text, at: int) -> str | None:
    """The heading over a character: of the largest parts of which the text has three or more. None where it is not
    known, or has the words of another one."""
    over = [each for each in text.headings if each[0] <= at]
    if not over:
        return None
    _, end, name = over[-1]
    if at < end or sum(name == other for _, _, other in text.headings) > 1:
        return None
    if text.is_code and not all(map(_INSIDE.match, text.text[end : at + 1].split("\n")[1:])):
        return None  # it stands behind the definition
    return name


def _frequent(text: Text, random: np.random.Generator, other: Text | None) -> Task | None:
    if len(text.terms) < 3:
        return None
    words = _draw_some([*text.terms], 3, random)
    most, second = sorted(words, key=lambda word: -text.terms.count(word))[:2]
    if text.terms.count(most) < max(_CLEARLY_MORE * text.terms.count(second), text.terms.count(second) + 2):
        return None
    form = _draw(ANSWERS[text.language]["frequent"], random)
    return _ask(text, "frequent", tuple(words), form.format(x=most), random)


_MAKERS: Mapping[Family, Callable[[Text, np.random.Generator, Text | None], Task | None]] = MappingProxyType(
    {
        "count": _count,
        "order": _order,
        "mention": _mention,
        "cloze": _cloze,
        "recall": _recall,
        "overwrite": _overwrite,
        "heading": _heading,
        "frequent": _frequent,
    }
)


def _ask(
    text: Text,
    family: Family,
    about: tuple[str, ...],
    answer: str,
    random: np.random.Generator,
    *,
    wording: str | None = None,
) -> Task:
    form = _draw(QUESTIONS[text.language][wording or family], random)
    return Task(family, about, form.format(**dict(zip("abc", about, strict=False))), answer)


def _draw(of: Sequence[str], random: np.random.Generator) -> str:
    return of[int(random.integers(len(of)))]


def _draw_some(of: Sequence[str], count: int, random: np.random.Generator) -> list[str]:
    """Some different ones, in a drawn order. Their numbers are drawn: an array of words would first be made of all."""
    return [of[number] for number in random.choice(len(of), size=count, replace=False).tolist()]


def _sentence_around(text: Text, at: int) -> str | None:
    """The sentence with a character, if it is not too long to quote."""
    line = text.text.rfind("\n", 0, at) + 1
    begin = max(line, *(text.text.rfind(mark, line, at) + 1 for mark in "。！？"))
    # No sentence goes on behind a line. One that ends where the search does, as 3. of 3.14, is longer than a quote.
    line_end = text.text.find("\n", at, at + _LONGEST_QUOTE)
    stop = line_end + 1 if line_end >= 0 else min(len(text.text), at + _LONGEST_QUOTE + 1)
    if not any(text.text.find(mark, at, stop) >= 0 for mark in _MARKS):
        return None
    for match in SENTENCES.finditer(text.text, begin, stop):
        if match.start() <= at < match.end():
            if match[1] is None:
                return None
            before, _, rest = text.text[max(0, match.start() - _LINE) : match.start()].rpartition("\n")
            if not rest.strip() and (before.rstrip(" \t") + "\n")[-2:-1] not in _ENDING:
                return None  # it begins in the line before
            sentence = match[0].strip().lstrip(_CLOSING)
            return sentence if 8 <= len(sentence) <= _LONGEST_QUOTE else None
    return None
