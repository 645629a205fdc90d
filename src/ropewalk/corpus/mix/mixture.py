"""Selects the source of each next sequence, so that the mix in tokens holds at every step of a run.

Sequences are packed per source and mixed afterwards. A sequence of a source is allowed once the share of the source
permits it, and required before the source lags by one sequence; the most urgent source is first. So every source stays
within one sequence of its share in every prefix (Tijdeman 1980, for sequences of one size). A schedule that takes the
largest deficit deviates by ln(sources) sequences.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Int32, Int64

from ropewalk.core.error import UserError
from ropewalk.core.record import Role

_BLOCK_SEQUENCES = 1 << 16


def find_members(
    key: str, mix: Mapping[str, float], *, roles: Mapping[str, Role], tokens: Mapping[str, int]
) -> list[str]:
    """The sources with text that the weight of ``key`` applies to. Raises UserError where no source has text."""
    named = [name for name, role in roles.items() if name == key or (role == key and name not in mix)]
    members = [name for name in named if tokens[name]]
    if not members:
        raise UserError(
            "the mix asks for text that is not there",
            where=f"mix.{key}",
            why=f"no token to train on in {', '.join(named) or 'any source of this name or role'}",
            fix="keep more of it (`ropewalk corpus inspect RECIPE` shows what was dropped, and why), add text, or set "
            "its weight to 0",
        )
    return members


class MixtureOrder:
    """Gives one sequence after the other. ``next_sequence(source)`` returns the tokens in the source's next one."""

    def __init__(self, shares: Sequence[float], *, context_tokens: int, next_sequence: Callable[[int], int]) -> None:
        self._share = np.asarray(shares, dtype=np.float64)
        self._next_sequence = next_sequence
        self._slack = context_tokens * (1 - 1 / (2 * len(self._share) - 2)) if len(self._share) > 1 else 0.0
        self._waiting = np.array([next_sequence(source) for source in range(len(self._share))], dtype=np.int64)
        self._given, self._total = np.zeros(len(self._share), dtype=np.int64), 0

    def deal(self) -> tuple[int, int]:
        """(source, tokens) of the next sequence. 0 tokens mean that the selected source has no more text."""
        ahead = self._given + self._waiting - self._share * (self._total + self._waiting)
        due = np.where(ahead <= self._slack, (self._given + self._slack) / self._share, np.inf)
        chosen = int(due.argmin()) if np.isfinite(due).any() else int(ahead.argmin())
        tokens = int(self._waiting[chosen])
        if tokens:
            self._given[chosen] += tokens
            self._total += tokens
            self._waiting[chosen] = self._next_sequence(chosen)
        return chosen, tokens


def schedule_sequences(
    shares: Sequence[float], *, sequences: int, context_tokens: int, next_sequence: Callable[[int], int]
) -> tuple[Int32[np.ndarray, "sequences"], Int64[np.ndarray, "sequences"]]:
    """(source, tokens) of each of so many sequences; ``next_sequence(source)`` counts the tokens of the source's next.

    A prefix does not depend on ``sequences``. A source is exhausted where ``next_sequence`` returns 0. The schedule
    then ends at the sequence that this source should give: it is the last one and has 0 tokens.
    """
    schedule = MixtureOrder(shares, context_tokens=context_tokens, next_sequence=next_sequence)
    source, tokens = np.empty(sequences, dtype=np.int32), np.empty(sequences, dtype=np.int64)
    for sequence in range(sequences):
        source[sequence], tokens[sequence] = schedule.deal()
        if tokens[sequence] == 0:
            return source[: sequence + 1], tokens[: sequence + 1]
    return source, tokens


def find_most_off(
    source: Int32[np.ndarray, "sequences"], tokens: Int64[np.ndarray, "sequences"], shares: Sequence[float]
) -> float:
    """The largest deviation of a source, at any prefix, from its share of the tokens given so far, in tokens."""
    before, most = np.zeros(len(shares)), 0.0
    for begin in range(0, len(source), _BLOCK_SEQUENCES):  # a table of all sequences could take gigabytes
        chosen = source[begin : begin + _BLOCK_SEQUENCES]
        given = np.zeros((len(chosen), len(shares)))
        given[np.arange(len(chosen)), chosen] = tokens[begin : begin + _BLOCK_SEQUENCES]
        given = before + given.cumsum(axis=0)
        most = max(most, float(np.abs(given - np.asarray(shares) * given.sum(axis=1, keepdims=True)).max()))
        before = given[-1]
    return most
