"""Three of RULER's tasks in our own wording: variable tracking, common words, and one needle among needles.

Scores are not comparable with published ones: the wording differs, and answers are teacher-forced in a given order. The
set of tasks and their parameters follow Hsieh et al., "RULER" (arXiv 2404.06654), appendix B.
"""

from itertools import product
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from ropewalk.core.quantity import PositiveCount
from ropewalk.core.spec import Spec
from ropewalk.probe.haystack import Fact, close_prompt, count_words, hide_facts, refuse_length, write_sentences
from ropewalk.probe.prompt import Prompt

_SYLLABLES = [a + b for a, b in product("bcdfghklmnprstvwz", "aeiou")]
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_SHORT_WORDS, _MOST_WORDS, _MOST_NAMES = len(_SYLLABLES) ** 2, len(_SYLLABLES) ** 3, len(_LETTERS) ** 3
"""Invented words of two syllables and of three, and variables of three letters."""


class VariableTracking(Spec):
    """Chains of assignments scattered in noise; which variables hold the first chain's value?"""

    kind: Literal["variable_tracking"] = "variable_tracking"
    hops: PositiveCount = 4
    """Assignments from the first variable of a chain to its last."""
    chains: Annotated[PositiveCount, Field(le=20)] = 2
    """Chains in the text; one is asked."""

    @model_validator(mode="after")
    def _check(self) -> "VariableTracking":
        if (count := (self.hops + 1) * self.chains) > _MOST_NAMES:
            raise ValueError(f"hops={self.hops}, chains={self.chains}: {count:,} variables, at most {_MOST_NAMES:,}")
        return self


class CommonWords(Spec):
    """A list in which a few words are frequent and many are rare; which are the frequent ones?"""

    kind: Literal["common_words"] = "common_words"
    common: Annotated[PositiveCount, Field(lt=_MOST_WORDS)] = 10
    """How many words are frequent."""
    common_repeats: Annotated[PositiveCount, Field(ge=2)] = 30
    """How often each of them stands in the list."""
    rare_repeats: PositiveCount = 3
    """How often each other word does."""

    @model_validator(mode="after")
    def _check(self) -> "CommonWords":
        if self.rare_repeats >= self.common_repeats:
            raise ValueError(
                f"rare_repeats={self.rare_repeats}: it must be below common_repeats, which is {self.common_repeats}"
            )
        return self


class NeedleAmongNeedles(Spec):
    """A haystack that is nothing but needles; ``depth`` None asks for any of them."""

    kind: Literal["needle_among_needles"] = "needle_among_needles"
    depth: Annotated[float, Field(ge=0, le=1)] | None = None
    """Share of the text before the wanted fact; null: any of them."""


def track_variables(spec: VariableTracking, rng: np.random.Generator, *, words: int) -> Prompt:
    """A prompt of at most ``words`` words; the answers are the first chain's variables in order of assignment."""
    count = (spec.hops + 1) * spec.chains
    names = [
        f"{_LETTERS[i // 676 % 26]}{_LETTERS[i // 26 % 26]}{_LETTERS[i % 26]}"
        for i in rng.choice(_MOST_NAMES, count, False)
    ]
    values = rng.choice(90_000, size=spec.chains, replace=False) + 10_000
    chains = [names[i * (spec.hops + 1) : (i + 1) * (spec.hops + 1)] for i in range(spec.chains)]
    question = f"\n\nWhich variables hold the value {values[0]}, in the order of assignment? They are"
    opening = "Keep track of the variables set in this text.\n\n"
    fixed = count_words(opening + question, "en") + 4 * count + spec.hops + 1
    if words < fixed:
        raise refuse_length("variable_tracking", words, fixed)
    facts: list[Fact] = []
    for chain, value in zip(chains, values, strict=True):
        places = np.sort(rng.random(len(chain)))
        sources = [str(value), *chain[:-1]]
        facts += [
            Fact(f"Set {name} = {source}.", float(place))
            for name, source, place in zip(chain, sources, places, strict=True)
        ]
    haystack, depths = hide_facts(write_sentences("en", rng, words=words - fixed), facts, rng)
    answers = [("," if i else "", f" {name}", depths[i]) for i, name in enumerate(chains[0])]
    return close_prompt(opening + haystack, question, answers)


def find_common_words(spec: CommonWords, rng: np.random.Generator, *, words: int) -> Prompt:
    """A prompt of at most ``words`` words; the answers are the frequent words in order of first appearance.

    The depth of each answer is that of its first appearance.
    """
    question = f"\n\nThe {spec.common} most frequent words of this list, in the order in which each first appears, are"
    fixed = count_words(question, "en") + spec.common
    rare = (words - fixed - spec.common * spec.common_repeats) // spec.rare_repeats
    if rare < 1:
        raise refuse_length("common_words", words, fixed + spec.common * spec.common_repeats + spec.rare_repeats)
    rare = min(rare, _MOST_WORDS - spec.common)
    names = _invent_words(spec.common + rare, rng)
    repeats = [spec.common_repeats] * spec.common + [spec.rare_repeats] * rare
    items = [names[i] for i in rng.permutation(np.repeat(np.arange(len(names)), repeats))]
    begins: dict[str, int] = {}
    position = 0
    for item in items:
        begins.setdefault(item, position)
        position += len(item) + 1
    common = sorted(names[: spec.common], key=begins.__getitem__)
    answers = [("," if i else "", f" {name}", begins[name] / position) for i, name in enumerate(common)]
    return close_prompt(" ".join(items), question, answers)


def find_needle_among_needles(spec: NeedleAmongNeedles, rng: np.random.Generator, *, words: int) -> Prompt:
    """A prompt of at most ``words`` words; the answer is the number of the one requested key."""
    per_needle, fixed = 6, 15
    count = min((words - fixed) // per_needle, _MOST_WORDS)
    if count < 1:
        raise refuse_length("needle_among_needles", words, fixed + per_needle)
    keys = _invent_words(count, rng)
    numbers = rng.choice(9_000_000, size=count, replace=False) + 1_000_000
    needles = [f"The number of {key} is {number}." for key, number in zip(keys, numbers, strict=True)]
    depth = spec.depth if spec.depth is not None else float(rng.random())
    wanted = min(int(depth * count), count - 1)
    context = " ".join(needles)
    begin = sum(len(needle) + 1 for needle in needles[:wanted])
    question = f"\n\nWhat is the number of {keys[wanted]}? The number of {keys[wanted]} is"
    return close_prompt(context, question, [("", f" {numbers[wanted]}", begin / len(context))])


def _invent_words(count: int, rng: np.random.Generator) -> list[str]:
    """Words of two syllables, all different; of three where there are more, as in texts above 64Ki tokens."""
    syllables = 2 if count <= _SHORT_WORDS else 3
    drawn = rng.choice(len(_SYLLABLES) ** syllables, size=count, replace=False).tolist()
    each = len(_SYLLABLES)
    return ["".join(_SYLLABLES[i // each**place % each] for place in reversed(range(syllables))) for i in drawn]
