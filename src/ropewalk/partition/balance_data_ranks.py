"""Which data rank takes which rows of a step, and in which micro-batch, by what their attention costs.

Data ranks run their micro-batches in step, because sharded weights are gathered for all of them at once. So it is each
micro-batch that must be even over the ranks: rows alike in cost share one, and within it the dearest goes to the rank
with the least so far. A row of one long document costs as many pairs as all the rows of short ones of a step.
"""

import numpy as np
from jaxtyping import Int64


def deal_rows(pairs: Int64[np.ndarray, "rows"], *, ranks: int, micro_rows: int) -> list[list[list[int]]]:
    """For each data rank its micro-batches, lists of at most ``micro_rows`` rows by index; as many for every rank.

    ``pairs`` counts each row's attention pairs. Rows of a micro-batch are in ascending order. With one rank there is
    nothing to even out, and rows stay in order. Where rows are few a rank's micro-batch may be empty.
    """
    waves = -(-len(pairs) // (ranks * micro_rows))
    order = np.arange(len(pairs)) if ranks == 1 else np.argsort(-pairs, kind="stable")
    dealt: list[list[list[int]]] = [[] for _ in range(ranks)]
    for wave in np.array_split(order, waves):
        hands: list[list[int]] = [[] for _ in range(ranks)]
        room, work = -(-len(wave) // ranks), [0] * ranks
        for row in wave.tolist():
            rank = min((r for r in range(ranks) if len(hands[r]) < room), key=lambda r: (work[r], len(hands[r]), r))
            hands[rank].append(row)
            work[rank] += int(pairs[row])
        for rank, hand in enumerate(hands):
            dealt[rank].append(sorted(hand))
    return dealt


def count_row_pairs(document_tokens: list[list[int]]) -> Int64[np.ndarray, "rows"]:
    """Attention pairs of rows that hold documents, or pieces, of these lengths."""
    counted = (sum(tokens * (tokens + 1) // 2 for tokens in row) for row in document_tokens)
    return np.fromiter(counted, dtype=np.int64, count=len(document_tokens))
