"""Needle in a haystack: the numbers of one or several towns among plain sentences, with other towns as distractors."""

from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from ropewalk.core.quantity import Count, PositiveCount
from ropewalk.core.spec import Spec
from ropewalk.probe.haystack import (
    Fact,
    close_prompt,
    count_words,
    hide_facts,
    refuse_length,
    split_list,
    write_sentences,
)
from ropewalk.probe.prompt import Language, Prompt

_TOWNS = {
    "en": split_list("""
Lisbon|Oslo|Cairo|Lima|Seoul|Vienna|Quito|Dakar|Hanoi|Prague|Athens|Dublin|Havana|Nairobi|Tunis|Riga|Ankara|Bogota|Manila
Warsaw|Geneva|Kyoto|Tbilisi|Valencia|Bergen|Cusco|Marseille|Toronto|Adelaide|Zagreb
"""),
    "zh": split_list("""
南京|成都|昆明|苏州|泉州|大连|兰州|桂林|洛阳|青岛|哈尔滨|贵阳|温州|扬州|拉萨|西宁|合肥|南昌|厦门|太原|银川|徐州|绍兴|宜昌|大理|烟台|保定|湛江|延安|敦煌
"""),
}  # fmt: skip
_FACT = {"en": "The secret number of {town} is {number}.", "zh": "{town}的暗号是{number}。"}
_QUESTION = {
    "en": "\n\nWhat is the secret number of {town}? The secret number of {town} is",
    "zh": "\n\n{town}的暗号是多少？{town}的暗号是",
}
_BEFORE = {"en": " ", "zh": ""}


class Needle(Spec):
    """A family of needle prompts; ``depth`` None hides the needle anywhere, distractors lie anywhere."""

    kind: Literal["needle"] = "needle"
    language: Language = "en"
    """Of the prompt."""
    depth: Annotated[float, Field(ge=0, le=1)] | None = None
    """Share of the text before each needle; null: anywhere."""
    distractors: Annotated[Count, Field(lt=30)] = 3
    """Other towns' numbers in the text."""
    digits: Annotated[PositiveCount, Field(ge=3, le=18)] = 7
    """Digits of a number."""
    questions: PositiveCount = 1
    """Towns asked, one after the other: a long text gives as many answers. At most ``distractors`` + 1."""

    @model_validator(mode="after")
    def _check(self) -> "Needle":
        if self.questions > self.distractors + 1:
            raise ValueError(f"questions={self.questions}: the text has {self.distractors + 1} towns, distractors + 1")
        return self


def make_needle_prompt(spec: Needle, rng: np.random.Generator, *, words: int) -> Prompt:
    """A prompt of at most ``words`` words (characters in Chinese); raises UserError if they are too few."""
    language, towns = spec.language, _TOWNS[spec.language]
    chosen = [towns[i] for i in rng.permutation(len(towns))[: spec.distractors + 1]]
    numbers = rng.choice(9 * 10 ** (spec.digits - 1), size=len(chosen), replace=False) + 10 ** (spec.digits - 1)
    texts = [_FACT[language].format(town=town, number=number) for town, number in zip(chosen, numbers, strict=True)]
    asked = range(spec.questions)
    questions = [_QUESTION[language].format(town=chosen[i]) for i in asked]
    answers = [f"{_BEFORE[language]}{numbers[i]}" for i in asked]
    fixed = count_words("".join([*(f"{text} " for text in texts), *questions, *answers]), language)
    if words < fixed:
        raise refuse_length("needle", words, fixed)
    facts = [Fact(text, spec.depth if i in asked else None) for i, text in enumerate(texts)]
    haystack, depths = hide_facts(write_sentences(language, rng, words=words - fixed), facts, rng)
    return close_prompt(haystack, "", [(questions[i], answers[i], depths[i]) for i in asked])
