"""How many candidates and texts a probe can read within a budget, from two timed readings of the model.

The time to read a text is a part that grows with its tokens and a part that grows with their square. Two readings give
both. A round is one document and one prompt of each length, and all candidates read the same rounds, so that their
differences are paired. Two rounds are the least that give an interval.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from ropewalk.core.error import UserError
from ropewalk.core.quantity import format_length, format_seconds

_FEWEST_CANDIDATES = 2
_MARGIN = 1.25
"""A probe that takes longer than foreseen stops at this multiple of its budget, between two candidates."""


@dataclass(frozen=True, slots=True)
class ReadingTime:
    """Seconds to read a text: ``per_token`` times its tokens, and ``per_pair`` times their square."""

    per_token: float
    per_pair: float

    def seconds(self, tokens: int) -> float:
        return self.per_token * tokens + self.per_pair * tokens**2

    def round_seconds(self, lengths: Sequence[int], ranks: int) -> float:
        """The time of texts of these lengths, which ranks share; the longest is read by one rank alone."""
        each = [self.seconds(tokens) for tokens in lengths]
        return max(sum(each) / ranks, *each)


def fit_time(short: tuple[int, float], long: tuple[int, float]) -> ReadingTime:
    """From two (tokens, seconds), the second with more tokens; both parts are at least zero."""
    (few, fast), (many, slow) = short, long
    assert few < many
    per_pair = (slow / many - fast / few) / (many - few)
    if per_pair <= 0:
        return ReadingTime(slow / many, 0.0)
    per_token = fast / few - per_pair * few
    return ReadingTime(per_token, per_pair) if per_token > 0 else ReadingTime(0.0, slow / many**2)


@dataclass(frozen=True)
class ProbePlan:
    """The candidates that are read, in order, the rounds of each, and what this takes."""

    names: tuple[str, ...]
    rounds: int
    seconds: float
    """The forecast for all of them."""
    left_out: tuple[str, ...] = ()


def plan_probe(
    names: Sequence[str], rounds: Sequence[Sequence[int]], time: ReadingTime, *, start: float, ranks: int, budget: float
) -> ProbePlan:
    """The most that fits into ``budget`` seconds: all candidates with fewer rounds, else fewer candidates.

    ``names`` are in the order of their worth; ``rounds`` has the lengths of the texts of each round, and ``start`` is
    the time to make and load one model. Raises UserError where two candidates cannot read one round.
    """
    costs: list[float] = []
    read: list[int] = []
    for lengths in rounds:
        read += lengths
        costs.append(start + time.round_seconds(read, ranks))
    fitting = [number for number, cost in enumerate(costs, 1) if cost * len(names) <= budget]
    if fitting and fitting[-1] >= min(2, len(costs)):
        return ProbePlan(tuple(names), fitting[-1], costs[fitting[-1] - 1] * len(names))
    for number in range(min(2, len(costs)), 0, -1):
        kept = min(len(names), int(budget // costs[number - 1]))
        if kept >= min(_FEWEST_CANDIDATES, len(names)):
            return ProbePlan(tuple(names[:kept]), number, costs[number - 1] * kept, tuple(names[kept:]))
    needed = costs[0] * min(_FEWEST_CANDIDATES, len(names))
    raise UserError(
        "the budget is too small for a probe",
        where="--minutes",
        why=f"on this machine one text of {format_length(max(rounds[0]))} tokens with its prompts takes "
        f"{format_seconds(costs[0])}, and two candidates are the fewest to compare: {format_seconds(needed)}",
        fix=f"--minutes {needed / 60 + 0.1:.1f} or more, or a shorter context_length",
    )


@dataclass
class BudgetClock:
    """Says before each candidate if it still fits, from the time that the candidates before it took."""

    budget: float
    taken: list[float] = field(default_factory=list)

    def fits(self, *, planned: bool) -> bool:
        """True for the first two candidates, and as long as one more will end in time.

        A candidate that the plan left out is read as well where the others took less than foreseen.
        """
        if planned and len(self.taken) < _FEWEST_CANDIDATES:
            return True
        return sum(self.taken) + max(self.taken) <= self.budget * (_MARGIN if planned else 1.0)
