"""Four tasks of single words beside key-value recall: overwritten keys, frequent values, labels of items, rows to copy.

A small model can learn them within minutes, so they show what an extension does to more than one way of reading: the
latest of several facts, the majority of several facts, a key of two words in a context that consists of facts only, and
a row of words from one place. Every word is one token of a tokenizer that has seen them, and the answers are scored in
one forward pass. They are trained on (``corpus/embedded``) and measured; the tasks that are only measured are those of
``held_out_tasks``, with which they share no word and no wording.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from pydantic import model_validator

from ropewalk.core.quantity import PositiveCount, format_count
from ropewalk.core.spec import Spec
from ropewalk.probe.haystack import refuse_length
from ropewalk.probe.prompt import Language, Prompt
from ropewalk.probe.vocabulary import VOCABULARIES, Vocabulary

WordTaskName = Literal["overwritten", "frequent", "labels", "copy"]
_LABELS = 4


class WordTask(Spec):
    """A family of prompts; each has as many asked keys as fit, at most the second number of ``keys``."""

    kind: Literal["word_task"] = "word_task"
    task: WordTaskName
    """``overwritten``: a key's last value; ``frequent``: the value that more than half of a key's facts have;
    ``labels``: the label of an item of two words, among as many other items as fill the context; ``copy``: a row of
    words, given its first one."""
    language: Language = "en"
    """Of the words."""
    keys: tuple[PositiveCount, PositiveCount] = (3, 8)
    """Fewest and most keys, items or rows that are asked."""
    facts: tuple[PositiveCount, PositiveCount] = (2, 4)
    """Fewest and most facts of each; of ``copy`` the words of a row after its first one."""

    @model_validator(mode="after")
    def _check(self) -> "WordTask":
        words = VOCABULARIES[self.language]
        for name in ("keys", "facts"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name}={[low, high]}: the fewest are more than the most")
        most = len(words.values) // self.facts[1] if self.task == "copy" else len(words.keys)
        if self.keys[1] > most or self.facts[1] > len(words.values):
            raise ValueError(
                f"{self.task} with keys={list(self.keys)} and facts={list(self.facts)} needs more words than the "
                f"vocabulary has: at most {format_count(most, 'key')}, {format_count(len(words.values), 'fact')}"
            )
        return self


_Asked = tuple[str, str, int]
"""The words before an answer, the answer, and the word of the context at which its first needed fact begins."""


def make_word_prompt(spec: WordTask, rng: np.random.Generator, *, words: int) -> Prompt:
    """A prompt of at most ``words`` words: context, `` recall``, then what is asked with its answers.

    An answer begins with a space. Raises UserError if ``words`` cannot hold the fewest keys with the fewest facts.
    """
    vocabulary = VOCABULARIES[spec.language]
    counts = _draw_counts(spec, rng, words)
    room = words - 1 - sum(_question_words(spec, facts) for facts in counts)
    body, asked = _WRITERS[spec.task](vocabulary, rng, counts, room)
    begins = np.cumsum([0, *(len(word) + 1 for word in body)]).tolist()  # character offset of each word of the context
    text, spans = "".join(f" {word}" for word in [*body, vocabulary.recall]), []
    for before, answer, _ in asked:
        text += f" {before}"
        spans.append((len(text), len(text) + len(answer) + 1))
        text += f" {answer}"
    return Prompt(text, tuple(spans), tuple(begins[place] / begins[-1] for *_, place in asked))


def _fact_words(spec: WordTask, facts: int) -> int:
    """Words that one key takes in the context."""
    return {"overwritten": 2 * facts, "frequent": 2 * facts, "labels": 3 * facts, "copy": 1 + facts}[spec.task]


def _question_words(spec: WordTask, facts: int) -> int:
    return {"overwritten": 2, "frequent": 3, "labels": 3, "copy": 1 + facts}[spec.task]


def _draw_counts(spec: WordTask, rng: np.random.Generator, words: int) -> list[int]:
    """The facts of each key; keys that do not fit are left out."""
    (fewest, most), (low, high) = spec.keys, spec.facts
    needed = 1 + fewest * (_fact_words(spec, low) + _question_words(spec, low))
    if words < needed:
        raise refuse_length(f"word_task {spec.task}", words, needed)
    keys = int(rng.integers(fewest, most + 1))
    counts: list[int] = rng.integers(low, high + 1, size=keys).tolist()
    used = 1
    for number, facts in enumerate(counts):
        used += _fact_words(spec, facts) + _question_words(spec, facts)
        if used > words:
            return counts[:number] if number >= fewest else [low] * fewest
    return counts


def _scatter(facts: Sequence[Sequence[str]], rng: np.random.Generator, room: int) -> list[int]:
    """The places of ``facts`` in a context of ``room`` words, in their order, none within another."""
    lengths = np.array([len(fact) for fact in facts])
    free = room - int((lengths - 1).sum())  # places left when each fact is squeezed to one word
    slots = np.sort(rng.choice(free, size=len(facts), replace=False))
    places: list[int] = (slots + np.concatenate(([0], np.cumsum(lengths - 1)[:-1]))).tolist()
    return places


def _fill(
    facts: Sequence[Sequence[str]], vocabulary: Vocabulary, rng: np.random.Generator, room: int
) -> tuple[list[str], list[int]]:
    """A context of ``room`` words with ``facts`` scattered in filler, and where each begins."""
    body = [vocabulary.filler[i] for i in rng.integers(len(vocabulary.filler), size=room).tolist()]
    places = _scatter(facts, rng, room)
    for place, fact in zip(places, facts, strict=True):
        body[place : place + len(fact)] = fact
    return body, places


def _mix(keys: Sequence[str], values: Sequence[Sequence[str]], rng: np.random.Generator) -> list[tuple[str, str]]:
    """The facts of all keys in a random order."""
    facts = [(key, value) for key, own in zip(keys, values, strict=True) for value in own]
    return [facts[i] for i in rng.permutation(len(facts)).tolist()]


def _draw(words: Sequence[str], rng: np.random.Generator, number: int) -> list[str]:
    return [words[i] for i in rng.permutation(len(words))[:number].tolist()]


def _write_overwritten(
    vocabulary: Vocabulary, rng: np.random.Generator, counts: list[int], room: int
) -> tuple[list[str], list[_Asked]]:
    keys = _draw(vocabulary.keys, rng, len(counts))
    facts = _mix(keys, [_draw(vocabulary.values, rng, facts) for facts in counts], rng)
    body, places = _fill(facts, vocabulary, rng, room)
    last = {key: (value, place) for (key, value), place in zip(facts, places, strict=True)}
    return body, [(key, *last[key]) for key in _draw(keys, rng, len(keys))]


def _write_frequent(
    vocabulary: Vocabulary, rng: np.random.Generator, counts: list[int], room: int
) -> tuple[list[str], list[_Asked]]:
    keys = _draw(vocabulary.keys, rng, len(counts))
    values = []
    for facts in counts:
        winner, *others = _draw(vocabulary.values, rng, 1 + (facts - 1) // 2)
        values.append([winner] * (facts - len(others)) + others)
    facts_of_all = _mix(keys, values, rng)
    body, places = _fill(facts_of_all, vocabulary, rng, room)
    answers = {key: own[0] for key, own in zip(keys, values, strict=True)}
    first = dict(reversed(list(zip(facts_of_all, places, strict=True))))
    asked = [(key, answers[key]) for key in _draw(keys, rng, len(keys))]
    return body, [(f"{vocabulary.most} {key}", answer, first[key, answer]) for key, answer in asked]


def _write_labels(
    vocabulary: Vocabulary, rng: np.random.Generator, counts: list[int], room: int
) -> tuple[list[str], list[_Asked]]:
    """Items of two words; those that are not asked fill the context, each as often as a random one of the asked."""
    pairs = len(vocabulary.keys) * len(vocabulary.filler)
    drawn = rng.permutation(pairs).tolist()
    labels = rng.integers(_LABELS, size=pairs).tolist()
    shots = [number for number, facts in enumerate(counts) for _ in range(facts)]
    number = len(counts)
    while len(shots) < room // 3:
        shots += [number % pairs] * min(counts[number % len(counts)], room // 3 - len(shots))
        number += 1
    shots = [shots[i] for i in rng.permutation(len(shots)).tolist()]

    def item(number: int) -> str:
        key, word = divmod(drawn[number], len(vocabulary.filler))
        return f"{vocabulary.keys[key]} {vocabulary.filler[word]}"

    body = [word for shot in shots for word in (*item(shot).split(), vocabulary.values[labels[shot]])]
    asked = rng.permutation(len(counts)).tolist()
    return body, [(item(each), vocabulary.values[labels[each]], 3 * shots.index(each)) for each in asked]


def _write_copy(
    vocabulary: Vocabulary, rng: np.random.Generator, counts: list[int], room: int
) -> tuple[list[str], list[_Asked]]:
    keys = _draw(vocabulary.keys, rng, len(counts))
    words = _draw(vocabulary.values, rng, sum(counts))
    ends = np.cumsum([0, *counts]).tolist()
    rows = [[key, *words[begin:end]] for key, begin, end in zip(keys, ends[:-1], ends[1:], strict=True)]
    body, places = _fill(rows, vocabulary, rng, room)
    asked = rng.permutation(len(rows)).tolist()
    return body, [(rows[i][0], " ".join(rows[i][1:]), places[i]) for i in asked]


_Writer = Callable[[Vocabulary, np.random.Generator, list[int], int], tuple[list[str], list[_Asked]]]
_WRITERS: dict[WordTaskName, _Writer] = {
    "overwritten": _write_overwritten,
    "frequent": _write_frequent,
    "labels": _write_labels,
    "copy": _write_copy,
}
