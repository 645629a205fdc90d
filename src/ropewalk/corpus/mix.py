"""Which source gives the next row, so that the mix holds in tokens at every moment of a run.

Rows are packed per source and mixed afterwards. A row of a source may be given once its share allows it and must be
given before it lags by a row; the most urgent goes first. That keeps every source within one row of its share at every
prefix (Tijdeman 1980, for rows of one size), where taking the largest deficit drifts off by ln(sources) rows.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Int32, Int64

from ropewalk.core.error import UserError
from ropewalk.core.record import Role


def source_shares(
    mix: Mapping[str, float], *, roles: Mapping[str, Role], tokens: Mapping[str, int]
) -> dict[str, float]:
    """Each source's share of the tokens. A role's weight is spread over its sources by their ``tokens``.

    A source that ``mix`` names has the weight given there and takes no part in its role's. Sources with a share of 0
    are left out. Raises UserError for a key that names nothing and for a weight that has no text to spend it on.
    """
    shares: dict[str, float] = {}
    total = sum(mix.values())
    for key, weight in mix.items():
        members = [name for name, role in roles.items() if name == key or (role == key and name not in mix)]
        size = sum(tokens[name] for name in members)
        if weight == 0:
            continue
        if size == 0:
            raise UserError(
                "the mix asks for text that is not there",
                where=f"mix.{key}",
                why=f"no token to train on in {', '.join(members) or 'any source of this name or role'}",
                fix=f"name one of {', '.join(dict.fromkeys([*roles.values(), *roles]))}, or add text",
            )
        for name in members:
            if tokens[name]:
                shares[name] = weight / total * tokens[name] / size
    return {name: shares[name] for name in roles if name in shares}


def schedule_rows(
    shares: Sequence[float], *, rows: int, context_tokens: int, next_row: Callable[[int], int]
) -> tuple[Int32[np.ndarray, "rows"], Int64[np.ndarray, "rows"]]:
    """(source, tokens) of each of ``rows`` rows; ``next_row(source)`` says how many tokens its next row has.

    A prefix does not depend on ``rows``. Where ``next_row`` says 0 the source is dry; the schedule ends at the row that
    would have been its turn, which is then the last one and has 0 tokens.
    """
    share = np.asarray(shares, dtype=np.float64)
    waiting = np.array([next_row(source) for source in range(len(share))], dtype=np.int64)
    given, total = np.zeros(len(share), dtype=np.int64), 0
    source, tokens = np.empty(rows, dtype=np.int32), np.empty(rows, dtype=np.int64)
    slack = context_tokens * (1 - 1 / (2 * len(share) - 2)) if len(share) > 1 else 0.0
    for row in range(rows):
        ahead = given + waiting - share * (total + waiting)
        due = np.where(ahead <= slack, (given + slack) / share, np.inf)
        chosen = int(due.argmin()) if np.isfinite(due).any() else int(ahead.argmin())
        source[row], tokens[row] = chosen, waiting[chosen]
        if waiting[chosen] == 0:
            return source[: row + 1], tokens[: row + 1]
        given[chosen] += waiting[chosen]
        total += waiting[chosen]
        waiting[chosen] = next_row(chosen)
    return source, tokens
