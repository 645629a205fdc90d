"""RULER's eight needle tasks: sentences with a key and a value, hidden in noise, in essays, or among their like."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal
from uuid import UUID

import numpy as np
from jaxtyping import Int64

from ropewalk.core.error import UserError
from ropewalk.probe.haystack import count_words, refuse_length, write_sentences
from ropewalk.probe.prompt import Prompt
from ropewalk.probe.ruler_task import RulerName, RulerSample, RulerTask
from ropewalk.probe.word_lists import KEYS

NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
_NEEDLE = "One of the special magic {kind} for {key} is: {value}."
_SENTENCE = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])\s*")  # a point in 3.50 or www.x.com ends no sentence

Draw = Callable[[np.random.Generator], str]


@dataclass(frozen=True, slots=True)
class _Form:
    haystack: Literal["noise", "essay", "needle"]
    key: Literal["words", "uuids"] = "words"
    value: Literal["numbers", "uuids"] = "numbers"
    keys: int = 1
    values: int = 1
    queries: int = 1


_FORMS: dict[RulerName, _Form] = {
    "niah_single_1": _Form("noise"),
    "niah_single_2": _Form("essay"),
    "niah_single_3": _Form("essay", value="uuids"),
    "niah_multikey_1": _Form("essay", keys=4),
    "niah_multikey_2": _Form("needle"),
    "niah_multikey_3": _Form("needle", key="uuids", value="uuids"),
    "niah_multivalue": _Form("essay", values=4),
    "niah_multiquery": _Form("essay", keys=4, queries=4),
}


def _draw_uuid(rng: np.random.Generator) -> str:
    return str(UUID(bytes=rng.bytes(16), version=4))


_DRAW: dict[str, Draw] = {
    "words": lambda rng: KEYS[int(rng.integers(len(KEYS)))],
    "numbers": lambda rng: str(rng.integers(1_000_000, 10_000_000)),
    "uuids": _draw_uuid,
}


def make_needle_sample(spec: RulerTask, rng: np.random.Generator, *, words: int) -> RulerSample:
    """A sample of at most ``words`` words. Raises UserError where they are too few, or the essays too short."""
    form = _FORMS[spec.task]
    keys: dict[str, list[str]] = {}
    while len(keys) < form.keys:
        keys[_DRAW[form.key](rng)] = [_DRAW[form.value](rng) for _ in range(form.values)]
    needles = [_NEEDLE.format(kind=form.value, key=key, value=value) for key in keys for value in keys[key]]
    needles = [needles[i] for i in rng.permutation(len(needles))]
    asked = [list(keys)[i] for i in rng.permutation(form.keys)[: form.queries]]
    answers = [value for key in asked for value in keys[key]]
    opening, question = _ask(form, asked)
    fixed = count_words(" ".join((opening, question, *needles, *answers)), "en")
    haystack = [] if words < fixed else _write_haystack(spec, form, rng, words=words - fixed, taken=keys)
    if not haystack:
        raise refuse_length(spec.task, words, fixed + (19 if form.haystack != "needle" else 9))
    places = np.sort(rng.integers(0, len(haystack) + 1, size=len(needles)))
    lines = np.insert(np.array(haystack, dtype=object), places, needles).tolist()
    context = (" " if form.haystack == "essay" else "\n").join(lines)
    depths = [context.index(f" is: {answer}.") / len(context) for answer in answers]
    text, spans = opening + context + question, []
    for number, answer in enumerate(answers):
        text += "," if number else ""
        spans.append((len(text), len(text) + len(answer) + 1))
        text += f" {answer}"
    return RulerSample(Prompt(text, tuple(spans), tuple(depths)), tuple(answers))


def _ask(form: _Form, asked: list[str]) -> tuple[str, str]:
    """The words before the context, and those after it up to the answers."""
    query = f"{', '.join(asked[:-1])}, and {asked[-1]}" if len(asked) > 1 else asked[0]
    many = form.queries * form.values > 1
    kind = form.value if many else form.value[:-1]
    opening = (
        f"{'Some' if many else 'A'} special magic {kind} {'are' if many else 'is'} hidden within the following text. "
        f"Make sure to memorize it. I will quiz you about the {kind} afterwards.\n"
    )
    verb = "are all" if many else "is"
    question = (
        f"\nWhat {verb} the special magic {kind} for {query} mentioned in the provided text? "
        f"The special magic {kind} for {query} mentioned in the provided text {'are' if many else 'is'}"
    )
    return opening, question


def _write_haystack(
    spec: RulerTask, form: _Form, rng: np.random.Generator, *, words: int, taken: dict[str, list[str]]
) -> list[str]:
    if form.haystack == "noise":
        return [NOISE] * (words // len(NOISE.split()))
    if form.haystack == "essay":
        return cut_essays(spec.essays, rng, words=words)
    lines: list[str] = []
    for _ in range(words // len(_NEEDLE.split())):
        key = _DRAW[form.key](rng)
        while key in taken:
            key = _DRAW[form.key](rng)
        lines.append(_NEEDLE.format(kind=form.value, key=key, value=_DRAW[form.value](rng)))
    return lines


def cut_essays(path: str | None, rng: np.random.Generator, *, words: int) -> list[str]:
    """Sentences of at most ``words`` words from a random place of the user's text, or of our own.

    Raises UserError where the text has fewer words, or a sentence there has more.
    """
    if path is None:
        return write_sentences("en", rng, words=words)
    sentences, ends = _read_sentences(path)
    total = int(ends[-1])
    if total < words:
        raise UserError(
            f"the essays have {total:,} words, and a prompt needs {words:,}",
            where=path,
            why="no sentence is used twice in one prompt, since a needle between repetitions is easier to find",
            fix="give a longer text, or measure at shorter lengths",
        )
    begin = int(np.searchsorted(ends, rng.integers(0, total - words + 1), side="right"))
    before = int(ends[begin - 1]) if begin else 0
    found = sentences[begin : int(np.searchsorted(ends, before + words, side="right"))]
    if not found and words > 0:
        raise UserError(
            f"a sentence of the essays has {int(ends[begin]) - before:,} words, and a prompt has room for {words:,}",
            where=path,
            why="a sentence ends at a full stop, a question mark or an exclamation mark, and needles lie between two",
            fix="give a text of shorter sentences, or measure at longer lengths",
        )
    return list(found)


@cache
def _read_sentences(path: str) -> tuple[tuple[str, ...], Int64[np.ndarray, "sentences"]]:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError("the essays cannot be read", where=path, why=str(error), fix="give a .txt file") from None
    sentences = tuple(" ".join(sentence.split()) for sentence in _SENTENCE.split(text) if sentence.strip())
    if not sentences:
        raise UserError("the essays are empty", where=path, why="the file has no sentence", fix="give a .txt file")
    return sentences, np.cumsum([len(sentence.split()) for sentence in sentences])
