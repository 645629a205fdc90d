"""One question of a published benchmark whose data the user has: its prompt, its references and how it is scored."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from ropewalk.probe.prompt import Language

Cut = Literal["middle", "end"]
"""What a prompt that is too long loses: its own middle, or the end of its context."""


def never_ends(written: str) -> bool:
    """Writing ends at the end token or at the number of tokens only."""
    return False


@dataclass(frozen=True, slots=True)
class BenchmarkQuestion:
    """A model reads ``before + context + after + begin`` and continues it."""

    before: str
    context: str
    after: str
    begin: str
    """The first words of the answer, for a model that continues text."""
    references: tuple[str, ...]
    match: Callable[[Sequence[str], str], float]
    """The score in [0, 1] of a written text, ``begin`` included, against the references."""
    group: str
    """Questions of one group are not independent samples."""
    parts: tuple[str, ...] = ()
    """Names of the subsets that it counts in, such as ``short`` or ``zh/8k``."""
    language: Language = "en"
    ends: Callable[[str], bool] = never_ends
    """Whether more text than this, ``begin`` included, cannot change the score."""

    def score(self, written: str) -> float:
        """The score in [0, 1] of what a model wrote after the prompt."""
        return self.match(self.references, self.begin + written)


@dataclass(frozen=True, slots=True)
class BenchmarkData:
    """The questions of a file, and how the benchmark reads them."""

    questions: list[BenchmarkQuestion]
    generated_tokens: int
    """Tokens that a model may write, as in the benchmark."""
    cut: Cut
    metric: str
    left_out: str = ""
    """Which records are not scored, and why; empty where all are."""
