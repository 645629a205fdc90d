"""A prompt with known answers, and how to make one as long as a token budget allows.

Probes are text, so they serve any tokenizer. Where an answer stands is a span of characters that begins at a token
border: spans start with the space (or follow the mark) that the answer's first token carries.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from ropewalk.core.error import UserError

Language = Literal["en", "zh"]
_ROUNDS = 40


@dataclass(frozen=True, slots=True)
class Prompt:
    """A text, the half-open character spans of its answers, and how deep in the context each wanted fact stands.

    ``depths[i]`` is the share of the context that stands before the fact which answer ``i`` needs, in [0, 1]; the
    context is the text before the questions.
    """

    text: str
    answers: tuple[tuple[int, int], ...]
    depths: tuple[float, ...]

    def __post_init__(self) -> None:
        assert len(self.answers) == len(self.depths)
        assert all(0 <= begin < end <= len(self.text) for begin, end in self.answers)
        assert all(0 <= depth <= 1 for depth in self.depths)

    @property
    def answer_texts(self) -> tuple[str, ...]:
        """The answers themselves, in order."""
        return tuple(self.text[begin:end] for begin, end in self.answers)


def fit_prompt(
    make: Callable[[int], Prompt], count_tokens: Callable[[str], int], context_tokens: int, *, smallest_words: int = 1
) -> Prompt:
    """The longest prompt of at most ``context_tokens`` tokens; ``make(words)`` must give the same text each time.

    Grows by the measured tokens per word, then bisects; raises UserError if even ``smallest_words`` does not fit.
    """
    low, high, words = smallest_words, None, smallest_words
    best = make(low)
    tokens = count_tokens(best.text)
    if tokens > context_tokens:
        raise UserError(
            f"the shortest prompt has {tokens} tokens, the context {context_tokens}",
            where="probe",
            why=f"a prompt of {smallest_words} words already holds its facts and questions and little else",
            fix="probe a longer context, or ask fewer facts",
        )
    for _ in range(_ROUNDS):
        if high is not None and high - low <= 1:
            break
        guess = low + max(1, int((context_tokens - tokens) * max(low, 1) / max(tokens, 1)))
        words = guess if high is None or low < guess < high else (low + high) // 2
        prompt = make(words)
        found = count_tokens(prompt.text)
        if found > context_tokens:
            high = words
        else:
            low, best, tokens = words, prompt, found
    return best
