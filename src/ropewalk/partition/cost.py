"""The cost of a partition: attention pairs per rank, keys sent, and one number that compares partitions.

A *pair* is one query against one key in all heads, forward and backward; all other costs are expressed in pairs. The
default prices lie between those of a small model over gloo (28 pairs for a key) and of an 8B model over 100 GB/s
(1,100). That is enough to choose between layouts; the choice between tokens and heads needs the prices of the model
itself.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from ropewalk.partition.needed_keys import count_traffic_tokens
from ropewalk.partition.recurrent_cost import RecurrentStates, SummaryPrice
from ropewalk.partition.segments import Segments


class Heads(NamedTuple):
    """How wide one token is in attention."""

    heads: int
    kv_heads: int
    head_dim: int
    sent_width: int | None = None
    """Numbers of one token that travel where tokens are cut; None: keys and values of all heads."""


class _Device(NamedTuple):
    """Orders of magnitude of a kind of device, enough to choose by; fixed, so that a choice is the same everywhere."""

    attention_flops: float
    link_bytes_per_second: float
    tile_seconds: float
    message_seconds: float
    overlaps: bool


_DEVICES = {
    "cpu": _Device(100e9, 1e9, 20e-6, 200e-6, False),  # one core, gloo over loopback: whoever copies does not compute
    "cuda": _Device(450e12, 100e9, 1e-6, 30e-6, True),  # an H100 between NVLink's 400 GB/s and a network's 50
}
_GRADIENT_BYTES = 4


@dataclass(frozen=True, slots=True)
class Price:
    """What things cost, in attention pairs.

    They are: to send one key with its value there and their gradients back, to begin a tile, to begin a message.

    ``query_pairs`` is what one token's queries and output cost in an all-to-all, and their gradients, where heads are
    cut; None if that is not known. ``overlaps``: what travels while its receiver computes costs a quarter.
    """

    key_pairs: float = 128
    tile_pairs: float = 2048
    message_pairs: float = 32768
    query_pairs: float | None = None
    kept_pairs: float | None = None
    """What one token's keys and values cost in an all-to-all where latents travel otherwise; None: ``key_pairs``."""
    kv_heads: int = 1
    overlaps: bool = False
    recurrent: SummaryPrice | None = None
    """Of the recurrent layers that share the partition; None for a model without."""

    def all_to_all_pairs(self, kept_heads: int) -> float:
        """For one token whose heads go through the all-to-alls, ``kept_heads`` of them keys after copies are made."""
        assert self.query_pairs is not None
        keys = self.key_pairs if self.kept_pairs is None else self.kept_pairs
        return self.query_pairs + keys * kept_heads / self.kv_heads


PRICE = Price()
_GOOD_ENOUGH = 1.01
_HIDDEN = 0.25
"""Of the price of traffic that is hidden behind work: it still takes memory bandwidth, and links that others share."""


def price_of(heads: Heads, *, device: str, element_bytes: int, recurrent: RecurrentStates | None = None) -> Price:
    """Prices for a model's attention on a kind of device, ``cpu`` or ``cuda``, and for its ``recurrent`` layers."""
    kind = _DEVICES.get(device, _DEVICES["cuda"])
    # Two products forward, five backward, each of 2 operations an element.
    pair_operations = 14 * heads.heads * heads.head_dim
    pair_seconds = pair_operations / kind.attention_flops
    byte_pairs = 1 / kind.link_bytes_per_second / pair_seconds
    moved_pairs = (element_bytes + _GRADIENT_BYTES) * byte_pairs
    all_pairs = 2 * heads.kv_heads * heads.head_dim * moved_pairs
    tile_pairs, message_pairs = kind.tile_seconds / pair_seconds, kind.message_seconds / pair_seconds
    summaries = recurrent and SummaryPrice.of(
        recurrent,
        operation_pairs=1 / pair_operations,
        byte_pairs=byte_pairs,
        kernel_pairs=tile_pairs,
        message_pairs=message_pairs,
        element_bytes=element_bytes,
    )
    return Price(
        key_pairs=all_pairs if heads.sent_width is None else heads.sent_width * moved_pairs,
        kept_pairs=None if heads.sent_width is None else all_pairs,
        tile_pairs=tile_pairs,
        message_pairs=message_pairs,
        query_pairs=4 * heads.heads * heads.head_dim * element_bytes * byte_pairs,
        kv_heads=heads.kv_heads,
        overlaps=kind.overlaps,
        recurrent=summaries,
    )


def count_pairs(segments: Segments, ranks: int, window: int | None = None) -> Int64[np.ndarray, "ranks"]:
    """(query, key) pairs inside the document-causal mask, and the window if there is one, on each rank."""
    real = segments.document >= 0
    start, stop = segments.ranges.start - segments.begin, segments.ranges.stop - segments.begin
    pairs = pairs_before(stop, window) - pairs_before(start, window)
    counts = np.zeros(ranks, dtype=np.int64)
    np.add.at(counts, segments.owner[real], pairs[real])
    return counts


def pairs_before(tokens: Int64[np.ndarray, "segments"], window: int | None) -> Int64[np.ndarray, "segments"]:
    """Pairs of a document's first ``tokens`` queries: sum of min(t, window) over t = 1 to tokens."""
    inside = tokens if window is None else np.minimum(tokens, window)
    pairs: np.ndarray = inside * (inside + 1) // 2 + (tokens - inside) * inside
    return pairs


def count_own_pairs(segments: Segments, ranks: int) -> Int64[np.ndarray, "ranks"]:
    """Pairs of each rank that need no other rank's keys, for any window."""
    real = segments.document >= 0
    document, owner = segments.begin[real], segments.owner[real]
    shares, which = np.unique(document * ranks + owner, return_inverse=True)
    tokens = np.bincount(which, weights=segments.ranges.length[real]).astype(np.int64)
    counts = np.zeros(ranks, dtype=np.int64)
    np.add.at(counts, shares % ranks, tokens * (tokens + 1) // 2)
    return counts


def price_segments(
    segments: Segments, ranks: int, *, window: int | None, price: Price = PRICE, exchange: str = "needed_kv"
) -> tuple[float, float]:
    """The slowest rank's work plus the traffic that it waits for, in attention pairs; and the mean work, its least."""
    pairs, tiles = (
        count_pairs(segments, ranks, window),
        np.bincount(segments.owner[segments.document >= 0], minlength=ranks),
    )
    work = pairs + price.tile_pairs * tiles
    least = float(work.mean())
    recurrent = np.zeros(ranks) if price.recurrent is None else price.recurrent.price(segments, ranks)
    traffic = count_traffic_tokens(segments, ranks, window)
    if not traffic.any():
        return float((work + recurrent).max()), least
    if exchange == "ring":
        sent, messages = np.full(ranks, (ranks - 1) * (int(segments.ranges.stop[-1]) // ranks)), ranks - 1
    else:
        # A rank waits for its own link, and where links are shared for everybody's: half of each.
        sent, messages = (np.maximum(traffic.sum(0), traffic.sum(1)) + traffic.sum() / ranks) / 2, 1
    waits = price.key_pairs * sent
    if price.overlaps:
        # Round a ring all work goes on while blocks travel, but the last block's; else only that on own keys.
        hides = work * (1 - 1 / ranks) if exchange == "ring" else np.minimum(count_own_pairs(segments, ranks), work)
        waits = np.maximum(waits - hides, _HIDDEN * waits)
    return float((work + waits + recurrent).max() + price.message_pairs * messages), least


def choose_cheapest(
    proposals: Iterable[tuple[str, Segments]], ranks: int, *, window: int | None, price: Price = PRICE
) -> tuple[str, Segments]:
    """The cheapest of named proposals; looks no further than the first that nothing could beat by much."""
    if ranks == 1:  # all is its own
        return next(iter(proposals))
    best, lowest = None, np.inf
    for proposal in proposals:
        total, least = price_segments(proposal[1], ranks, window=window, price=price)
        if total < lowest:
            best, lowest = proposal, total
        if total <= _GOOD_ENOUGH * least:
            break
    assert best is not None
    return best
