"""Makes questions about a document from its own text, with answers that a program can check.

Only what is unambiguous is asked: a word counts as a word, never as a part of a longer one; a sentence or line is asked
for only if it stands there once; the answer stands in the first three quarters of the document. Chinese words are runs
of two to four characters that stand beside many others on either side.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from ropewalk.corpus.join.task_wordings import ANSWERS, GAP, QUESTIONS
from ropewalk.corpus.task_rules import Family

_WORDS = re.compile(r"(?<!\w)[A-Za-z_][A-Za-z0-9_'’-]*(?!\w)")
_HAN = re.compile("[\u4e00-\u9fff]{2,}")
_CLOSING = "\"'”’)]」』）"
_ENDING = {"", "\n", *".!?。！？:：;；", *_CLOSING}
_LINE = 300
_CLOSE = f"[{re.escape(_CLOSING)}]*"
_SENTENCES = re.compile(rf"(?:[^\n。！？.!?]|[.!?](?!{_CLOSE}(?:\s|$)))+(?:[。！？]{_CLOSE}|[.!?]{_CLOSE}(?=\s|$))")
"""A point that ends no sentence, as in a number, has a letter or digit behind it."""
_SETTINGS = re.compile(
    r"^[ \t]*([^\s=:：,，。(){}\[\]]{2,40})(?<![-+*/%&|^<>!~@])[ \t]*(?:=(?!=)|[:：](?!=|//))[ \t]*(\S[^\n]{0,79})$",
    re.MULTILINE,
)
_NUMBER = "[零〇一二两三四五六七八九十百千0-9０-９]+"
_HEADINGS: Mapping[str, Sequence[re.Pattern[str]]] = MappingProxyType(
    {
        "zh": (
            re.compile(rf"^[ \t\u3000#]*(第{_NUMBER}[编章回][^\n]{{0,40}})$", re.M),
            re.compile(rf"^[ \t\u3000#]*(第{_NUMBER}条)(?=[\s\u3000])", re.M),
            re.compile(r"^#{1,6} +(\S[^\n]{0,79})$", re.M),
        ),
        "en": (
            re.compile(r"^[ \t]*((?:chapter|article|section)[ \t]+(?:[ivxlc]+|[0-9]+)\b[^\n]{0,60})$", re.M | re.I),
            re.compile(r"^#{1,6} +(\S[^\n]{0,79})$", re.M),
        ),
        "code": (re.compile(r"^(?:async )?(?:class|def|func|fn|function|struct)[ \t]+(\w+)(?=[ \t]*[(:{<\[])", re.M),),
    }
)
"""What stands over a part, the largest parts first; of programs the classes and functions at the left margin."""
_INSIDE = re.compile(r"[ \t)\]{#]|$")
"""Begins a line that does not end a definition at the left margin."""
_FEWEST, _MOST = 3, 200
"""Occurrences of a word that is counted."""
_SHORTEST_WORD, _TERMS = 5, 60
_LONGEST_QUOTE = 240
_SHORTEST_LINE = MappingProxyType({"en": 40, "zh": 18})
_EARLY = 0.75
_FEWEST_HEADINGS = 3
_CLEARLY_MORE = 1.25
_ABSENT = 0.12
"""Share of counts that ask for a word that is not there."""


class Task(NamedTuple):
    """A question and its answer. ``about`` holds the words that it is about."""

    family: Family
    about: tuple[str, ...]
    question: str
    answer: str


@dataclass(frozen=True)
class Text:
    """A document with what questions are made of. ``terms`` are its frequent words, with all their positions."""

    text: str
    language: str
    terms: Mapping[str, Sequence[int]]
    is_code: bool = False

    @property
    def early(self) -> int:
        """The character before which an answer must stand."""
        return int(_EARLY * len(self.text))


def read_terms(text: str, language: str) -> Text:
    """The frequent words of a text in ``en``, ``zh`` or ``code``: whole words or identifiers, or runs of Chinese
    characters. Programs are asked about in English."""
    found: dict[str, list[int]] = defaultdict(list)
    if language != "zh":
        for match in _WORDS.finditer(text):
            found[match[0]].append(match.start())
        fit = {word: at for word, at in found.items() if len(word) >= _SHORTEST_WORD and _FEWEST <= len(at) <= _MOST}
        return Text(text, "en", _choose(fit, text), is_code=language == "code")
    runs = [(match.start(), match[0]) for match in _HAN.finditer(text)]
    counts = Counter(run[at : at + size] for _, run in runs for size in (2, 3, 4) for at in range(len(run) - size + 1))
    beside: dict[str, tuple[set[str], set[str]]] = {
        w: (set(), set()) for w, n in counts.items() if _FEWEST <= n <= _MOST
    }
    for start, run in runs:
        for size in (2, 3, 4):
            for at in range(len(run) - size + 1):
                if (sides := beside.get(run[at : at + size])) is not None:
                    sides[0].add(run[at - 1] if at else "")
                    sides[1].add(run[at + size] if at + size < len(run) else "")
                    found[run[at : at + size]].append(start + at)
    free = [word for word, (left, right) in beside.items() if min(len(left), len(right)) >= _FEWEST]
    inner = {w[at : at + n] for w in free for n in range(2, len(w)) for at in range(len(w) - n + 1)}
    return Text(text, language, _choose({w: found[w] for w in free if w not in inner}, text))


def _choose(found: Mapping[str, list[int]], text: str) -> dict[str, list[int]]:
    """The most frequent words of ``found`` that are never a part of a longer word, nor written in another case."""
    folded = text.lower()
    order = sorted(found, key=lambda word: (-len(found[word]), word))
    alone = (word for word in order if folded.count(word.lower()) == len(found[word]))
    return {word: found[word] for word in islice(alone, _TERMS)}


def make_task(text: Text, family: Family, random: np.random.Generator, *, other: Text | None = None) -> Task | None:
    """A task of this family, or None where the text has nothing that is unambiguous. ``other`` is another document,
    whose words are asked for where they are not."""
    return _MAKERS[family](text, random, other)


def _count(text: Text, random: np.random.Generator, other: Text | None) -> Task | None:
    folded = text.text.lower()
    strange = [word for word in other.terms if word.lower() not in folded] if other else []
    if strange and random.random() < _ABSENT:
        return _ask(text, "count", (_draw(strange, random),), _draw(ANSWERS[text.language]["absent"], random), random)
    if not text.terms:
        return None
    word = _draw([*text.terms], random)
    answer = _draw(ANSWERS[text.language]["count"], random).format(x=len(text.terms[word]))
    return _ask(text, "count", (word,), answer, random)


def _order(text: Text, random: np.random.Generator, other: Text | None) -> Task | None:
    if len(text.terms) < 2:
        return None
    words = random.choice([*text.terms], size=2, replace=False).tolist()
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
    lines = text.text[: text.early].split("\n")[:-1]
    line = _draw(lines, random).strip() if lines else ""
    head = line[: len(line) // 3] if text.language == "zh" else " ".join(line.split(" ")[: len(line.split(" ")) // 3])
    if not _SHORTEST_LINE[text.language] <= len(line) <= _LONGEST_QUOTE or len(head) < 6 or text.text.count(head) > 1:
        return None
    return _ask(text, "recall", (head,), line[len(head) :].strip(), random)


def _overwrite(text: Text, random: np.random.Generator, other: Text | None) -> Task | None:
    values: dict[str, list[str]] = defaultdict(list)
    last: dict[str, int] = {}
    for match in _SETTINGS.finditer(text.text):
        values[match[1]].append(match[2].strip())
        last[match[1]] = match.start()
    changed = [key for key, given in values.items() if given[-1] != given[0] and last[key] <= text.early]
    if not changed:
        return None
    key = _draw(changed, random)
    if re.search(rf"^[ \t]*{re.escape(key)}[ \t]*[-+*/%&|^<>@]+=", text.text, re.MULTILINE):
        return None  # its value changes in place too
    return _ask(text, "overwrite", (key,), values[key][-1], random)


def _heading(text: Text, random: np.random.Generator, other: Text | None) -> Task | None:
    if not text.terms:
        return None
    word = _draw([*text.terms], random)
    at = text.terms[word][0]
    over = _find_heading(text, at)
    if over is None or at > text.early:
        return None
    wording = "heading_code" if text.is_code else "heading"
    return _ask(text, "heading", (word,), over, random, wording=wording)


def _find_heading(text: Text, at: int) -> str | None:
    """The heading over a character: of the largest parts of which the text has three or more. None where it is not
    known, or has the words of another one."""
    for pattern in _HEADINGS["code" if text.is_code else text.language]:
        found = [*pattern.finditer(text.text)]
        if len(found) < _FEWEST_HEADINGS:
            continue
        over = [match for match in found if match.start() <= at]
        names = [match[1].strip() for match in found]
        if not over or at < over[-1].end() or names.count(over[-1][1].strip()) > 1:
            return None
        if text.is_code and not all(map(_INSIDE.match, text.text[over[-1].end() : at + 1].split("\n")[1:])):
            return None  # it stands behind the definition
        return over[-1][1].strip()
    return None


def _frequent(text: Text, random: np.random.Generator, other: Text | None) -> Task | None:
    if len(text.terms) < 3:
        return None
    words = random.choice([*text.terms], size=3, replace=False).tolist()
    most, second = sorted(words, key=lambda word: -len(text.terms[word]))[:2]
    if len(text.terms[most]) < max(_CLEARLY_MORE * len(text.terms[second]), len(text.terms[second]) + 2):
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


def _sentence_around(text: Text, at: int) -> str | None:
    """The sentence with a character, if it is not too long to quote."""
    begin = max((text.text.rfind(mark, 0, at) for mark in "\n。！？"), default=-1) + 1
    for match in _SENTENCES.finditer(text.text, begin, min(len(text.text), at + _LONGEST_QUOTE)):
        if match.start() <= at < match.end():
            before, _, rest = text.text[max(0, match.start() - _LINE) : match.start()].rpartition("\n")
            if not rest.strip() and (before.rstrip(" \t") + "\n")[-2:-1] not in _ENDING:
                return None  # it begins in the line before
            sentence = match[0].strip().lstrip(_CLOSING)
            return sentence if 8 <= len(sentence) <= _LONGEST_QUOTE else None
    return None
