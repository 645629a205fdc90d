"""Prompts in which position, filler and length are set apart from each other: the same facts in every cell of a grid.

A low score at a length may have three causes: the fact is far, the text around it is hard, or there is much of it. So a
sample's facts, its question and its answer depend on its number alone. Depth, kind of filler and length are then given.
Three tasks ask for one fact, for a chain of two, and for the last of three values. Their names are letters and digits,
and their wordings stand in no training source (a test looks).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from ropewalk.probe.haystack import Fact, close_prompt, count_words, hide_facts, refuse_length, write_sentences
from ropewalk.probe.prompt import Language, Prompt
from ropewalk.probe.vocabulary import VOCABULARIES
from ropewalk.probe.word_lists import SINGLE_WORDS

GridTaskName = Literal["lookup", "two_hops", "latest"]
GRID_TASKS: tuple[GridTaskName, ...] = get_args(GridTaskName)
FillerName = Literal["repeated", "sentences", "words", "facts"]
FILLERS: tuple[FillerName, ...] = get_args(FillerName)

_TEXT: dict[Language, dict[str, str]] = {
    "en": {
        "code": "Locker {a} has the code {b}.",
        "link": "Locker {a} opens with the same code as locker {b}.",
        "change": "From now on locker {a} has the code {b}.",
        "code?": "\n\nThe code of locker {a} is",
        "change?": "\n\nAfter all changes the code of locker {a} is",
    },
    "zh": {
        "code": "{a}号储物柜的密码是{b}。",
        "link": "{a}号储物柜的密码与{b}号储物柜相同。",
        "change": "从现在起{a}号储物柜的密码改为{b}。",
        "code?": "\n\n{a}号储物柜的密码是",
        "change?": "\n\n全部改动之后，{a}号储物柜的密码是",
    },
}
_DISTRACTORS, _VALUES = 3, 3
_LETTERS = "BCDFGHJKLMNPQRSTVWXZ"
_LINE_WORDS, _SENTENCE_WORDS = 10, 60


@dataclass(frozen=True, slots=True)
class GridCell:
    """What is controlled, beside the length: ``depth`` is the share of the filler before the asked fact."""

    task: GridTaskName
    filler: FillerName
    depth: float
    language: Language = "en"


def make_grid_prompt(cell: GridCell, rng: np.random.Generator, *, words: int) -> Prompt:
    """A prompt of at most ``words`` words (characters in Chinese); raises UserError if they are too few.

    ``two_hops``: the fact at ``depth`` leads to one that lies half of the filler away. ``latest``: the last value lies
    at ``depth``, the earlier ones before it at equal distances. The same ``rng`` gives the same facts in every cell of
    a task.
    """
    text, language = _TEXT[cell.language], cell.language
    names, numbers = _draw_names(rng, 2 + _DISTRACTORS), _draw_numbers(rng, _VALUES + _DISTRACTORS)
    others = zip(names[2:], numbers[_VALUES:], rng.random(_DISTRACTORS).tolist(), strict=True)
    asked, answer = text["code?"], numbers[0]
    match cell.task:
        case "lookup":
            facts = [Fact(text["code"].format(a=names[0], b=answer), cell.depth)]
        case "two_hops":
            facts = [
                Fact(text["link"].format(a=names[0], b=names[1]), cell.depth),
                Fact(text["code"].format(a=names[1], b=answer), (cell.depth + 0.5) % 1),
            ]
        case "latest":
            asked, answer = text["change?"], numbers[_VALUES - 1]
            facts = [
                Fact(text["change"].format(a=names[0], b=number), cell.depth * (place + 1) / _VALUES)
                for place, number in enumerate(numbers[:_VALUES])
            ]
    form = text["change" if cell.task == "latest" else "code"]
    decides = len(facts) - 1 if cell.task == "latest" else 0
    facts += [Fact(form.format(a=name, b=number), place) for name, number, place in others]
    question, before = asked.format(a=names[0]), " " if language == "en" else ""
    fixed = count_words(" ".join([*(fact.text for fact in facts), question, before + answer]), language)
    if words < fixed:
        raise refuse_length("grid", words, fixed)
    haystack, depths = hide_facts(_write_filler(cell, rng, names, words=words - fixed), facts, rng)
    return close_prompt(haystack, question, [("", before + answer, depths[decides])])


def _write_filler(cell: GridCell, rng: np.random.Generator, taken: Sequence[str], *, words: int) -> list[str]:
    """Sentences of the cell's kind, of at most ``words`` words in total, without the names that are ``taken``."""
    language = cell.language
    match cell.filler:
        case "sentences":
            return write_sentences(language, rng, words=words)
        case "repeated":
            sentence = write_sentences(language, rng, words=_SENTENCE_WORDS)[0]
            return [sentence] * (words // count_words(sentence, language))
        case "words":
            return _write_lines(language, rng, words=words)
        case "facts":
            return _write_facts(cell, rng, taken, words=words)


def _write_lines(language: Language, rng: np.random.Generator, *, words: int) -> list[str]:
    """Lines of words without any order: filler that no grammar helps to predict."""
    listed, gap, end = (SINGLE_WORDS, " ", ".") if language == "en" else (VOCABULARIES["zh"].filler, "", "。")
    per_line = _LINE_WORDS + (language == "zh")  # a Chinese full stop counts as a character
    drawn = rng.integers(len(listed), size=(words // per_line, _LINE_WORDS)).tolist()
    return [gap.join(listed[i] for i in line) + end for line in drawn]


def _write_facts(cell: GridCell, rng: np.random.Generator, taken: Sequence[str], *, words: int) -> list[str]:
    """Facts of the task's own forms about other names: filler that looks like what is asked."""
    text = _TEXT[cell.language]
    forms = {"lookup": ("code",), "two_hops": ("link", "code"), "latest": ("change",)}[cell.task]
    written: list[str] = []
    used = 0
    while True:
        form = forms[len(written) % len(forms)]
        (name, other), (number,) = _draw_names(rng, 2), _draw_numbers(rng, 1)
        if name in taken or other in taken:
            continue
        fact = text[form].format(a=name, b=other if form == "link" else number)
        used += count_words(fact, cell.language)
        if used > words:
            return written
        written.append(fact)


def _draw_names(rng: np.random.Generator, count: int) -> list[str]:
    """Names such as ``QX-417``, of 360,000; those of one call differ."""
    letters = rng.integers(len(_LETTERS), size=(count, 2)).tolist()
    digits = rng.permutation(900)[:count].tolist()
    return [f"{_LETTERS[one]}{_LETTERS[two]}-{digit + 100}" for (one, two), digit in zip(letters, digits, strict=True)]


def _draw_numbers(rng: np.random.Generator, count: int) -> list[str]:
    return [str(number) for number in (rng.choice(90_000, size=count, replace=False) + 10_000).tolist()]
