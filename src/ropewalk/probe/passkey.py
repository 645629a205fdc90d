"""Passkey: one number, given twice inside one repeated sentence; the easiest retrieval task."""

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from ropewalk.core.quantity import PositiveCount
from ropewalk.core.spec import Spec
from ropewalk.probe.haystack import Fact, close_prompt, count_words, hide_facts, refuse_length
from ropewalk.probe.prompt import Language, Prompt


class Passkey(Spec):
    """A family of passkey prompts; ``depth`` None hides the key anywhere."""

    kind: Literal["passkey"] = "passkey"
    language: Language = "en"
    """Of the prompt."""
    depth: Annotated[float, Field(ge=0, le=1)] | None = None
    """Share of the text before the key; null: anywhere."""
    digits: Annotated[PositiveCount, Field(le=18)] = 5
    """Digits of the key."""


_OPENING = {
    "en": "Somewhere in the following text a pass key is given. Keep it in mind.\n\n",
    "zh": "下面的文字里有一个口令，请记住它。\n\n",
}
_NOISE = {
    "en": "Snow falls on the hills. Snow falls on the town. Nothing else is heard.",
    "zh": "雪落在山上。雪落在城里。四下没有别的声音。",
}
_FACT = {
    "en": "The pass key is {key}. Keep it in mind: {key} is the pass key.",
    "zh": "口令是{key}。请记住，{key}就是口令。",
}
_QUESTION = {"en": "\n\nWhat is the pass key? The pass key is", "zh": "\n\n口令是什么？口令是"}
_BEFORE = {"en": " ", "zh": ""}


def make_passkey_prompt(spec: Passkey, rng: np.random.Generator, *, words: int) -> Prompt:
    """A prompt of at most ``words`` words (characters in Chinese); raises UserError if they are too few."""
    language = spec.language
    key = str(rng.integers(10 ** (spec.digits - 1), 10**spec.digits))
    fact = _FACT[language].format(key=key)
    fixed = count_words(_OPENING[language] + fact + _QUESTION[language] + _BEFORE[language] + key, language)
    if words < fixed:
        raise refuse_length("passkey", words, fixed)
    noise = [_NOISE[language]] * ((words - fixed) // count_words(_NOISE[language], language))
    haystack, depths = hide_facts(noise, [Fact(fact, spec.depth)], rng)
    answer = _BEFORE[language] + key
    return close_prompt(_OPENING[language] + haystack, _QUESTION[language], [("", answer, depths[0])])
