"""Draw a partition as plain text: which rank computes which part of the attention matrix, and on whose keys."""

import numpy as np

from ropewalk.partition.partition import Partition

_MOST_RANKS = 10


def draw_partition(partition: Partition, *, cells: int = 32) -> str:
    """Queries go down, keys go right; a cell stands for its middle token.

    A digit is a rank on its own keys, a letter (a for rank 0) a rank on keys that it received, a dot is work that no
    rank does. Below it, what every rank computes and receives.
    """
    assert partition.ranks <= _MOST_RANKS, "a rank is one character"
    cells = min(cells, partition.tokens)
    middle = (np.arange(cells) * 2 + 1) * partition.tokens // (2 * cells)
    owner, _ = partition.localise(middle)
    segment = np.searchsorted(partition.segments.ranges.start, middle, side="right") - 1
    document = partition.segments.document[segment]
    seen = (document[:, None] == document) & (document >= 0) & (middle[:, None] >= middle)
    if partition.window is not None:
        seen &= middle[:, None] - middle < partition.window
    names = np.where(owner[:, None] == owner, ord("0"), ord("a")) + owner[:, None]
    lines = ["".join(map(chr, line)) for line in np.where(seen, names, ord("."))]
    received = partition.traffic_tokens.sum(1)
    lines += [
        "",
        f"{partition.layout}, {partition.tokens} tokens, work max/mean {partition.balance:.2f}",
        *(
            f"rank {rank}: {pairs:,} pairs, {received[rank]:,} keys received"
            for rank, pairs in enumerate(partition.pairs.tolist())
        ),
    ]
    return "\n".join(lines)
