"""The kinds of recurrence whose state is affine in the state before: which numbers sum up a segment of a document.

State h is a matrix [key_dim, value_dim] for each head. A segment changes it to M h + U. M is a full matrix where a
token erases what its key finds (the delta rule), one number where a token only lets the state decay, and known from
the length alone where the decay is a constant. Context ranks exchange M and U and nothing else, so the kind decides
the bytes.
"""

from dataclasses import dataclass
from typing import Literal

from ropewalk.core.error import UserError


@dataclass(frozen=True, slots=True)
class Recurrence:
    """``h[t] = A[t] h[t-1] + key[t] x value'[t]``, and the output is ``query[t] h[t]``."""

    name: str
    transition: Literal["matrix", "number", "length"]
    """What M is: a matrix for each head, a number for each head, or known from the number of tokens."""
    chunk_tokens: int
    """Tokens that the torch kernel takes at once."""
    decay_per_key: bool = False
    """Whether each of the key's dimensions has a decay of its own."""

    @property
    def erases(self) -> bool:
        """Whether a token removes what its key finds in the state before it adds its value."""
        return self.transition == "matrix"

    def transition_numbers(self, heads: int, key_dim: int) -> int:
        """Numbers of M."""
        return {"matrix": heads * key_dim * key_dim, "number": heads, "length": 0}[self.transition]

    def summary_numbers(self, heads: int, key_dim: int, value_dim: int, *, begins: bool = False) -> int:
        """Numbers that one segment's summary has; a segment that ``begins`` its document needs no M."""
        state = heads * key_dim * value_dim
        return state if begins else state + self.transition_numbers(heads, key_dim)

    def summary_operations(self, heads: int, key_dim: int, value_dim: int) -> int:
        """Operations that a token of an inner segment costs more, forward, to find M and U: the steps of its chunk on
        the state [U | M], where the ordinary pass has them on the state alone; where M is a number, on U."""
        products, width = (2, value_dim + key_dim) if self.erases else (1, value_dim)
        return 2 * products * heads * key_dim * width


RECURRENCES = {
    each.name: each
    for each in (
        Recurrence("gated_delta", "matrix", 64),
        Recurrence("kda", "matrix", 16, decay_per_key=True),
        Recurrence("ssd", "number", 64),
        Recurrence("simple_decay", "length", 64),
    )
}
_REFUSED = {
    "mlstm": "its gates are stabilised by a running maximum",
    "slstm": "its state passes a nonlinear function at every token",
    "titans": "its state is changed by a gradient that depends on the state in a nonlinear way",
    "rwkv7": "its transition is not one of those that the kernels here have",
    "mamba1": "its transition is a number for each channel and state dimension, for which there is no kernel here",
}


def find_recurrence(name: str) -> Recurrence:
    """The kind with this name. Raises UserError for others, with the reason where it is known."""
    known = RECURRENCES.get(name)
    if known is not None:
        return known
    raise UserError(
        f"there is no recurrence {name!r}",
        where="kind",
        why=_REFUSED.get(name.lower().replace("-", ""), "context ranks exchange a segment as one affine map"),
        fix=f"one of {', '.join(RECURRENCES)}",
    )
