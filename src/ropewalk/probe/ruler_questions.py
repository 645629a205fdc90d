"""RULER's two tasks of questions about documents: the user's SQuAD or HotpotQA file, or people whom we invent.

A prompt holds the documents of its question among other documents of the same file, in random order.
"""

import json
from dataclasses import dataclass
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from ropewalk.core.error import UserError
from ropewalk.probe.haystack import count_words, refuse_length
from ropewalk.probe.prompt import Prompt
from ropewalk.probe.ruler_task import RulerSample, RulerTask
from ropewalk.probe.word_lists import NOUNS

_OPENING = (
    "Answer the question based on the given documents. Only give me the answer and do not output any other words."
    "\n\nThe following are given documents.\n\n"
)
_QUESTION = (
    "\n\nAnswer the question based on the given documents. Only give me the answer and do not output any other words."
    "\n\nQuestion: {question} Answer:"
)
_SYLLABLES = ("ba", "del", "for", "gan", "hi", "jor", "kal", "lu", "mer", "nis", "o", "pel", "ros", "sam", "tur", "vin")


@dataclass(frozen=True, slots=True)
class AskedQuestion:
    """A question, its accepted answers, and the numbers of the documents that it needs."""

    text: str
    answers: tuple[str, ...]
    documents: tuple[int, ...]


Library = tuple[tuple[AskedQuestion, ...], tuple[str, ...]]
"""Questions, and the documents that they are about."""


def make_question_sample(spec: RulerTask, rng: np.random.Generator, *, words: int) -> RulerSample:
    """A sample of at most ``words`` words. Raises UserError where they are too few, or the file cannot be read."""
    if spec.questions is None:
        asked, documents = _invent_library(rng, hops=2 if spec.task == "qa_2" else 1, people=max(4, words // 12))
    else:
        asked, documents = read_questions(spec.questions)
    question = asked[int(rng.integers(len(asked)))]
    closing = _QUESTION.format(question=question.text)
    fixed = count_words(f"{_OPENING} {closing} {question.answers[0]}", "en")
    chosen = list(question.documents)
    used = fixed + sum(_size(documents[i]) for i in chosen)
    if used > words:
        raise refuse_length(spec.task, words, used)
    for number in rng.permutation(len(documents)).tolist():
        if number in question.documents:
            continue
        used += _size(documents[number])
        if used > words:
            break
        chosen.append(number)
    order = [chosen[i] for i in rng.permutation(len(chosen))]
    told = [f"Document {place + 1}:\n{documents[number]}" for place, number in enumerate(order)]
    context = "\n\n".join(told)
    begin = sum(len(text) + 2 for text in told[: min(order.index(number) for number in question.documents)])
    text = _OPENING + context + closing
    end = len(text) + len(question.answers[0]) + 1
    prompt = Prompt(f"{text} {question.answers[0]}", ((len(text), end),), (begin / len(context),))
    return RulerSample(prompt, question.answers, any_reference=True)


def _size(document: str) -> int:
    return count_words(document, "en") + 2


@cache
def read_questions(path: str) -> Library:
    """Questions and documents of a file in SQuAD's or HotpotQA's form. Raises UserError for any other content."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        found = _read_squad(content) if isinstance(content, dict) else _read_hotpot(content)
    except (OSError, UnicodeDecodeError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            "the questions cannot be read",
            where=path,
            why=f"{type(error).__name__}: {error}",
            fix="give the JSON file of SQuAD 2.0, or of HotpotQA's distractor setting",
        ) from None
    if not found[0]:
        raise UserError("the file has no question with an answer", where=path, why="all are empty", fix="another file")
    return found


def _read_squad(content: dict[str, Any]) -> Library:
    paragraphs = [paragraph for entry in content["data"] for paragraph in entry["paragraphs"]]
    documents = {paragraph["context"]: None for paragraph in paragraphs}
    place = {text: number for number, text in enumerate(documents)}
    asked = (
        AskedQuestion(entry["question"], tuple(answer["text"] for answer in entry["answers"]), (place[text],))
        for paragraph in paragraphs
        for text in [paragraph["context"]]
        for entry in paragraph["qas"]
        if entry["answers"]
    )
    return tuple(asked), tuple(documents)


def _read_hotpot(content: list[dict[str, Any]]) -> Library:
    texts = [[f"{title}\n{''.join(lines)}" for title, lines in entry["context"]] for entry in content]
    place = {text: number for number, text in enumerate(dict.fromkeys(text for own in texts for text in own))}
    asked = (
        AskedQuestion(entry["question"], (entry["answer"],), tuple(place[text] for text in own))
        for entry, own in zip(content, texts, strict=True)
    )
    return tuple(asked), tuple(place)


def _invent_library(rng: np.random.Generator, *, hops: int, people: int) -> Library:
    """A document for each of ``people``; with two hops the question names a person by a pupil."""
    names = _invent_names(rng, people)
    crafts, towns = (_pick(rng, NOUNS, people) for _ in range(2))
    towns = [f"{town.capitalize()}ford" for town in towns]
    teacher = np.roll(np.arange(people), 1).tolist()
    documents = tuple(
        f"{name}\n{name} was born in {town} and collects {craft}s. {name} was taught by {names[master]}."
        for name, town, craft, master in zip(names, towns, crafts, teacher, strict=True)
    )
    if hops == 1:
        asked = (AskedQuestion(f"Where was {name} born?", (towns[i],), (i,)) for i, name in enumerate(names))
    else:
        asked = (
            AskedQuestion(f"Where was the teacher of {name} born?", (towns[teacher[i]],), (i, teacher[i]))
            for i, name in enumerate(names)
        )
    return tuple(asked), documents


def _invent_names(rng: np.random.Generator, people: int) -> list[str]:
    names: dict[str, None] = {}
    for number in count():
        drawn = [_SYLLABLES[i] for i in rng.integers(len(_SYLLABLES), size=5)]
        names[f"{''.join(drawn[:2])} {''.join(drawn[2:])}".title()] = None
        if len(names) == people or number > 100 * people:
            break
    return list(names)


def _pick(rng: np.random.Generator, words: tuple[str, ...], number: int) -> list[str]:
    return [words[i] for i in rng.integers(len(words), size=number)]
