"""Key-value recall: pairs of words scattered in filler, and at the end a question for every key.

It is the smallest task that measures the distance at which a model can look up a value, and a model of a million
parameters can learn it. With ``hops`` a key leads to another key, and only the last key leads to the value. Every word
is one token, so the length of a prompt is exact in words. The answers need no generation: one forward pass over the
text scores all of them.
"""

from dataclasses import replace
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from ropewalk.core.error import UserError
from ropewalk.core.quantity import PositiveCount
from ropewalk.core.spec import Spec
from ropewalk.probe.prompt import Language, Prompt
from ropewalk.probe.vocabulary import VOCABULARIES, Vocabulary


class KeyValue(Spec):
    """A family of key-value prompts."""

    kind: Literal["key_value"] = "key_value"
    language: Language = "en"
    """Of the words."""
    pairs: tuple[PositiveCount, PositiveCount] = (3, 8)
    """Fewest and most pairs of a key with its value; a short prompt holds as many as fit."""
    hops: PositiveCount = 1
    """Facts from a key to its value: with 2, ``lamp river`` and ``river red`` scattered apart, and ``lamp`` asked."""
    questions: PositiveCount | None = None
    """Keys asked at the end; None asks all of them."""
    distinct_values: bool = True
    """False draws values with replacement, so that a model cannot guess among values not yet used."""
    keys: Annotated[PositiveCount, Field(gt=1)] = 40
    """How many words may be keys, from the head of the vocabulary."""
    values: Annotated[PositiveCount, Field(gt=1)] = 40
    """How many words may be values, likewise."""
    filler: Annotated[PositiveCount, Field(gt=1)] = 60
    """How many words of each kind are in use, from the head of the vocabulary."""

    @model_validator(mode="after")
    def _check(self) -> "KeyValue":
        words = VOCABULARIES[self.language]
        for name in ("keys", "values", "filler"):
            if getattr(self, name) > len(getattr(words, name)):
                raise ValueError(f"{name}={getattr(self, name)}: the vocabulary has {len(getattr(words, name))}")
        most = self.keys // self.hops
        if self.distinct_values:
            most = min(most, self.values)
        if not self.pairs[0] <= self.pairs[1] <= most:
            raise ValueError(f"pairs={self.pairs}: the range must end at {most} or less, the number of words")
        if self.questions is not None and self.questions > self.pairs[0]:
            raise ValueError(f"questions={self.questions}: more than the fewest pairs, {self.pairs[0]}")
        return self

    @property
    def vocabulary(self) -> Vocabulary:
        """The words in use."""
        whole = VOCABULARIES[self.language]
        return replace(
            whole,
            keys=whole.keys[: self.keys],
            values=whole.values[: self.values],
            filler=whole.filler[: self.filler],
        )


def make_key_value_prompt(spec: KeyValue, rng: np.random.Generator, *, words: int) -> Prompt:
    """A prompt of exactly ``words`` words: context, `` recall``, then each asked key with its value.

    The answers are the values with their leading space. An answer's depth is that of the earliest fact that it needs.
    Raises UserError if ``words`` cannot hold the fewest pairs.
    """
    vocabulary = spec.vocabulary
    pairs = _draw_pairs(spec, rng, words)
    questions = pairs if spec.questions is None else spec.questions
    facts = pairs * spec.hops
    keys = [vocabulary.keys[i] for i in rng.permutation(spec.keys)[:facts]]
    if spec.distinct_values:
        values = [vocabulary.values[i] for i in rng.permutation(spec.values)[:pairs]]
    else:
        values = [vocabulary.values[i] for i in rng.integers(spec.values, size=pairs)]
    context_words = words - 1 - 2 * questions
    body = [vocabulary.filler[i] for i in rng.integers(spec.filler, size=context_words)]
    # Facts take slots of two words: `facts` of the (context - facts) places left when each is squeezed to one.
    slots = np.sort(rng.choice(context_words - facts, size=facts, replace=False)) + np.arange(facts)
    if spec.hops > 1:
        slots = rng.permutation(slots)  # otherwise all first facts of chains would come before all second ones
    # Fact i leads from key i to key i + pairs; the last `pairs` facts lead to the values.
    for slot, key, target in zip(slots.tolist(), keys, keys[pairs:] + values, strict=True):
        body[slot], body[slot + 1] = key, target
    first = slots.reshape(spec.hops, pairs).min(axis=0).tolist()
    asked = rng.permutation(pairs)[:questions].tolist()
    return _write(body, [(keys[i], values[i], first[i]) for i in asked], vocabulary.recall)


def _draw_pairs(spec: KeyValue, rng: np.random.Generator, words: int) -> int:
    fewest, most = spec.pairs
    room = words - 1 - 2 * (spec.questions or 0)
    room //= 2 * spec.hops + (2 if spec.questions is None else 0)
    if room < fewest:
        needed = 1 + 2 * spec.hops * fewest + 2 * (spec.questions or fewest)
        raise UserError(
            f"a key-value prompt of {words} words is too short for {fewest} pairs",
            where="probe key_value, pairs",
            why=f"{fewest} pairs and their questions take {needed} words",
            fix=f"words={needed} or more, or fewer pairs",
        )
    return int(rng.integers(fewest, min(most, room) + 1))


def _write(body: list[str], asked: list[tuple[str, str, int]], recall: str) -> Prompt:
    begins = np.cumsum([0, *(len(word) + 1 for word in body)]).tolist()  # character offset of each word of the context
    text = [f" {word}" for word in body]
    context_characters = begins[-1]
    text.append(f" {recall}")
    position = context_characters + len(recall) + 1
    answers = []
    for key, value, _ in asked:
        text += (f" {key}", f" {value}")
        position += len(key) + len(value) + 2
        answers.append((position - len(value) - 1, position))
    depths = tuple(begins[slot] / context_characters for _, _, slot in asked)
    return Prompt("".join(text), tuple(answers), depths)
