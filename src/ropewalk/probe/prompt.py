"""A prompt with known answers, and a function that fits its length to a token budget.

Probes are text, so they work with any tokenizer. An answer is a span of characters that begins at a token border: spans
start with the space (or follow the mark) that the answer's first token includes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from ropewalk.core.error import UserError

Language = Literal["en", "zh"]
_ROUNDS = 48


@dataclass(frozen=True, slots=True)
class Prompt:
    """A text, the half-open character spans of its answers, and the depth of each needed fact in the context.

    ``depths[i]`` is the share of the context, in characters, before the fact that answer ``i`` needs, in [0, 1]. The
    context is the text between any opening words and the questions.
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

    The search brackets by the measured tokens per word, then bisects. It ends if a probe's text stops growing. Raises
    UserError if even ``smallest_words`` does not fit.
    """
    best = make(smallest_words)
    tokens = count_tokens(best.text)
    if tokens > context_tokens:
        raise UserError(
            f"the shortest prompt has {tokens} tokens, the context {context_tokens}",
            where="probe",
            why=f"a prompt of {smallest_words} words has just enough room for its facts and questions",
            fix="measure at a longer context, or use fewer facts",
        )
    low, high = smallest_words, None
    step = max(1, (context_tokens - tokens) * low // max(tokens, 1))
    for _ in range(_ROUNDS):
        if high is not None and high - low <= 1:
            break
        words = low + step if high is None else (low + high) // 2
        prompt = make(words)
        found = count_tokens(prompt.text)
        if found > context_tokens:
            high = words
            continue
        deficit = (context_tokens - found) * words // max(found, 1)
        step = 2 * step if found == tokens else max(1, 2 * deficit)
        low, best, tokens = words, prompt, found
    return best
