"""Assign the sequences of a step to data ranks and micro-batches by the cost of their attention.

Data ranks run their micro-batches at the same time, because sharded weights are gathered for all of them at once. So
each micro-batch must be balanced over the ranks: sequences of similar cost share one, and within it the most
expensive goes to the rank with the least work so far. A sequence of one long document costs as many pairs as all the
sequences of short documents of a step.
"""

import numpy as np
from jaxtyping import Int64


def assign_sequences(
    pairs: Int64[np.ndarray, "sequences"], *, ranks: int, micro_batch_size: int
) -> list[list[list[int]]]:
    """Return the micro-batches of each data rank: lists of at most ``micro_batch_size`` sequences by index.

    Every rank gets the same number of micro-batches.

    ``pairs`` counts each sequence's attention pairs. Sequences of a micro-batch are in ascending order.
    With one rank they stay in order. Where sequences are few, a rank's micro-batch may be empty.
    """
    waves = -(-len(pairs) // (ranks * micro_batch_size))
    order = np.arange(len(pairs)) if ranks == 1 else np.argsort(-pairs, kind="stable")
    micro_batches: list[list[list[int]]] = [[] for _ in range(ranks)]
    for wave in np.array_split(order, waves):
        assigned: list[list[int]] = [[] for _ in range(ranks)]
        room, work = -(-len(wave) // ranks), [0] * ranks
        for sequence in wave.tolist():
            rank = min(
                (r for r in range(ranks) if len(assigned[r]) < room), key=lambda r: (work[r], len(assigned[r]), r)
            )
            assigned[rank].append(sequence)
            work[rank] += int(pairs[sequence])
        for rank, sequences in enumerate(assigned):
            micro_batches[rank].append(sorted(sequences))
    return micro_batches


def count_sequence_pairs(document_tokens: list[list[int]]) -> Int64[np.ndarray, "sequences"]:
    """Attention pairs of sequences that hold documents, or segments, of these lengths."""
    counted = (sum(tokens * (tokens + 1) // 2 for tokens in sequence) for sequence in document_tokens)
    return np.fromiter(counted, dtype=np.int64, count=len(document_tokens))
