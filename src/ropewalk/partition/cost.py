"""What a partition costs: attention pairs per rank, key rows sent, and one number to compare layouts by.

A *pair* is one query against one key in one head; everything else is priced in pairs. The prices are those of a small
model over gloo and of an 8B model over 50 GB/s within a factor of two, which is enough to choose between layouts.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from ropewalk.partition.pieces import Pieces
from ropewalk.partition.rows import find_needs


@dataclass(frozen=True, slots=True)
class Price:
    """In attention pairs: to send one key row (there, and its gradient back), to begin a tile, to begin a message."""

    row_pairs: float = 128
    tile_pairs: float = 2048
    message_pairs: float = 32768


PRICE = Price()
_GOOD_ENOUGH = 1.01


def count_pairs(pieces: Pieces, ranks: int, window: int | None = None) -> Int64[np.ndarray, "ranks"]:
    """(query, key) pairs inside the document-causal mask, and the window if there is one, on each rank."""
    real = pieces.document >= 0
    pairs = pairs_before(pieces.stop - pieces.begin, window) - pairs_before(pieces.start - pieces.begin, window)
    counts = np.zeros(ranks, dtype=np.int64)
    np.add.at(counts, pieces.owner[real], pairs[real])
    return counts


def pairs_before(tokens: np.ndarray, window: int | None) -> np.ndarray:
    """Pairs of a document's first ``tokens`` queries: sum of min(t, window) over t = 1 to tokens."""
    inside = tokens if window is None else np.minimum(tokens, window)
    pairs: np.ndarray = inside * (inside + 1) // 2 + (tokens - inside) * inside
    return pairs


def count_rows(pieces: Pieces, ranks: int, window: int | None = None) -> Int64[np.ndarray, "ranks ranks"]:
    """Key rows that rank [i] must receive from rank [j]: only those that its tiles read."""
    needs = find_needs(pieces, ranks, window)
    rows = np.zeros((ranks, ranks), dtype=np.int64)
    np.add.at(rows, (needs.rank, pieces.owner[needs.piece]), needs.stop - needs.start)
    return rows


def price_pieces(pieces: Pieces, ranks: int, *, window: int | None, price: Price = PRICE) -> tuple[float, float]:
    """The slowest rank's work plus the traffic that it waits for, in attention pairs; and the mean work, its least."""
    rows = count_rows(pieces, ranks, window)
    tiles = np.bincount(pieces.owner[pieces.document >= 0], minlength=ranks)
    work = count_pairs(pieces, ranks, window) + price.tile_pairs * tiles
    # Ranks wait for the busiest link, and where links are shared for all of them: half of each.
    sent = (max(rows.sum(0).max(), rows.sum(1).max()) + rows.sum() / ranks) / 2
    return float(work.max() + price.row_pairs * sent + price.message_pairs * rows.any()), float(work.mean())


def choose_cheapest(
    proposals: Iterable[tuple[str, Pieces]], ranks: int, *, window: int | None, price: Price = PRICE
) -> tuple[str, Pieces]:
    """The cheapest of named proposals; looks no further than the first that nothing could beat by much."""
    best, lowest = None, np.inf
    for proposal in proposals:
        total, least = price_pieces(proposal[1], ranks, window=window, price=price)
        if total < lowest:
            best, lowest = proposal, total
        if total <= _GOOD_ENOUGH * least:
            break
    assert best is not None
    return best
