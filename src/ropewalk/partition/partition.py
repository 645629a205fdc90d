"""A partition: the owner of each token, the tiles of each rank, and the keys that it must receive. Plain data.

It is made once for each batch from the document ids alone, ahead of the step, and every layer reads it. All ranks
compute the same partition, so it is never sent.
"""

from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from jaxtyping import Int32, Int64

from ropewalk.core.error import UserError
from ropewalk.core.quantity import format_count
from ropewalk.partition.cost import PRICE, Price, choose_cheapest, count_pairs, price_segments
from ropewalk.partition.layout import LAYOUTS as LAYOUTS
from ropewalk.partition.layout import propose
from ropewalk.partition.needed_keys import NeededKeys, count_traffic_tokens, find_needed_keys
from ropewalk.partition.segments import Segments, find_documents, make_segments
from ropewalk.partition.tiles import (
    Queries,
    Tiles,
    cut_at_window,
    join_documents,
    make_causal_tiles,
    make_full_tiles,
    make_window_tiles,
)
from ropewalk.partition.token_ranges import TokenRanges

EXCHANGES = ("auto", "needed_kv", "ring", "all_gather")
_CHOICES = ("needed_kv", "ring")


@dataclass(frozen=True, eq=False)
class Partition:
    """How ``tokens`` packed tokens are shared by ``ranks`` ranks; each owns ``local_tokens`` of them."""

    ranks: int
    tokens: int
    layout: str
    exchange: str
    window: int | None
    segments: Segments
    _windowed: "dict[int | None, Partition]" = field(default_factory=dict, init=False, repr=False)

    def with_window(self, window: int | None) -> "Partition":
        """The same tokens on the same ranks, where a query sees ``window`` keys, itself included; None for all.

        One object for each window, so layers of one kind share its schedule. Raises UserError below 1.
        """
        _check_window(window)
        if window == self.window:
            return self
        # Two threads that come at once may both make one; setdefault gives them the same.
        return self._windowed.get(window) or self._windowed.setdefault(window, replace(self, window=window))

    @property
    def local_tokens(self) -> int:
        return self.tokens // self.ranks

    def owned(self, rank: int) -> Int64[np.ndarray, "local"]:
        """Packed indices of the rank's tokens, ascending: its local order."""
        return self._own_ranges(rank).expand()

    def document_tokens(self, rank: int) -> Int64[np.ndarray, "local"]:
        """How long the document of each of the rank's tokens is, all ranks' parts together; 0 for padding."""
        real, begin = self.segments.document >= 0, self.segments.begin
        length = np.bincount(begin[real], weights=self.segments.ranges.length[real], minlength=self.tokens)
        mine = self.segments.owner == rank
        each = np.where(real, length[begin], 0).astype(np.int64)
        return np.repeat(each[mine], self._own_ranges(rank).length)

    def causal_tiles(self, rank: int) -> Tiles:
        """The rank's tiles of own tokens against themselves; with ``tiles`` of all steps they are all it computes."""
        return make_causal_tiles(self._own_queries(rank))

    def tiles(self, rank: int) -> tuple[Tiles, ...]:
        """The rank's other tiles, for each step; step 0 reads its own keys, step i the i-th block that it receives."""
        cut = cut_at_window(self._own_segments(rank), self.window)
        own = self._find_tiles(self._own_queries(rank), self._own_ranges(rank))
        return (own, *(self._find_tiles(cut, block) for block in self.blocks(rank)))

    def blocks(self, rank: int) -> tuple[TokenRanges, ...]:
        """Packed tokens of the blocks that the exchange brings: all tokens of one rank after the other in a ring, else
        one block with just those whose keys this rank needs, in packed order; none if no rank needs any."""
        if not self.exchanges:
            return ()
        if self.exchange == "ring":
            return tuple(self._own_ranges((rank - step) % self.ranks) for step in range(1, self.ranks))
        return (self.needed_keys.of_rank(rank),)

    def received(self, rank: int, source: int) -> Int64[np.ndarray, "tokens"]:
        """Packed indices of the tokens whose keys ``rank`` needs from ``source``, ascending."""
        chosen = (self.needed_keys.rank == rank) & (self.segments.owner[self.needed_keys.segment] == source)
        return self.needed_keys.ranges.where(chosen).expand()

    def localise(
        self, packed: Int64[np.ndarray, "tokens"]
    ) -> tuple[Int64[np.ndarray, "tokens"], Int64[np.ndarray, "tokens"]]:
        """Owner of each packed index, and where the token stands in its owner's local order."""
        start = self.segments.ranges.start
        segment = np.searchsorted(start, packed, side="right") - 1
        return self.segments.owner[segment], self.segments.local[segment] + packed - start[segment]

    @cached_property
    def needed_keys(self) -> NeededKeys:
        """Keys that some rank needs and does not own."""
        return find_needed_keys(self.segments, self.ranks, self.window)

    @cached_property
    def exchanges(self) -> bool:
        """Whether any rank needs any key of another one."""
        return bool(len(self.needed_keys.rank))

    @cached_property
    def pairs(self) -> Int64[np.ndarray, "ranks"]:
        """(query, key) pairs of each rank, for one head: the document-true work."""
        return count_pairs(self.segments, self.ranks, self.window)

    @property
    def balance(self) -> float:
        """Largest work of a rank over the mean; 1 is perfect."""
        return float(self.pairs.max() / max(self.pairs.mean(), 1))

    @cached_property
    def traffic_tokens(self) -> Int64[np.ndarray, "ranks ranks"]:
        """Tokens whose keys reach rank [i] from rank [j] in one layer's forward; a ring's count for their owners."""
        if self.exchange == "needed_kv" or not self.exchanges:
            return count_traffic_tokens(self.segments, self.ranks, self.window)
        return np.full((self.ranks, self.ranks), self.local_tokens) - np.diag([self.local_tokens] * self.ranks)

    def describe(self) -> str:
        """The cut in a line: the owners of tokens, the traffic of keys, the balance of work."""
        others = (self.ranks - 1) * self.tokens
        sent = (
            f", {self.traffic_tokens.sum() / others:.0%} of a ring's keys sent" if self.exchanges else ", nothing sent"
        )
        return (
            f"{self.layout} over {format_count(self.ranks, 'rank')}, {self.exchange}: work max/mean "
            f"{self.balance:.2f}{sent}"
        )

    def _own_ranges(self, rank: int) -> TokenRanges:
        return self.segments.ranges.where(self.segments.owner == rank)

    def _own_segments(self, rank: int) -> Queries:
        mine = (self.segments.owner == rank) & (self.segments.document >= 0)
        packed = self.segments.ranges.where(mine)
        return Queries(packed, self.segments.local[mine], packed.length, self.segments.begin[mine])

    def _own_queries(self, rank: int) -> Queries:
        return cut_at_window(join_documents(self._own_segments(rank), self.window), self.window)

    def _find_tiles(self, queries: Queries, block: TokenRanges) -> Tiles:
        full, windowed = (make(queries, block, self.window) for make in (make_full_tiles, make_window_tiles))
        return Tiles(np.concatenate([full.columns, windowed.columns]))


def partition_tokens(
    document: Int32[np.ndarray, "sequences context"],
    *,
    ranks: int,
    layout: str = "auto",
    exchange: str = "auto",
    window: int | None = None,
    price: Price = PRICE,
) -> Partition:
    """Cut packed sequences over ``ranks`` context ranks.

    ``document`` holds an id for each token, the same for the tokens of one document, -1 for padding; sequences are
    laid end to end. ``window`` is how many keys a query sees, itself included; None for all of its document.
    ``price`` is what ``auto`` chooses by. Raises UserError for an unknown layout or exchange, and where the tokens do
    not divide by the ranks.
    """
    _check(document, ranks, layout=layout, exchange=exchange, window=window)
    documents = find_documents(document)
    owned = propose(documents, ranks, layout, recurrent=price.recurrent is not None)
    proposals = ((name, make_segments(documents, each, ranks)) for name, each in owned)
    name, segments = choose_cheapest(proposals, ranks, window=window, price=price)
    exchange = _choose_exchange(segments, ranks, window, price) if exchange == "auto" else exchange
    return Partition(ranks, documents.tokens, name, exchange, window, segments)


def _choose_exchange(segments: Segments, ranks: int, window: int | None, price: Price) -> str:
    """A ring sends all keys, and pays where that is hidden and the needed ones, in one go, are not.

    An all-gather is never cheaper than the needed keys, which are the same message with less in it.
    """
    if not price.overlaps or ranks == 1:
        return "needed_kv"
    costs = {each: price_segments(segments, ranks, window=window, price=price, exchange=each)[0] for each in _CHOICES}
    return min(_CHOICES, key=costs.__getitem__)


def _check(
    document: Int32[np.ndarray, "sequences context"], ranks: int, *, layout: str, exchange: str, window: int | None
) -> None:
    for key, value, allowed in (("layout", layout, LAYOUTS), ("exchange", exchange, EXCHANGES)):
        if value not in allowed:
            raise UserError(
                f"there is no {key} {value!r}", where=f"parallel.{key}", why="", fix=f"one of {', '.join(allowed)}"
            )
    if ranks < 1 or document.size == 0 or document.size % ranks:
        raise UserError(
            "sequences cannot be divided into equal parts",
            where="parallel.context_parallel",
            why=f"{document.size} tokens ({' x '.join(map(str, document.shape))}) over {ranks} context ranks",
            fix=f"fill the sequences up to a multiple of {ranks} tokens, "
            f"or share them among {_find_divisors(document.size, ranks)} ranks"
            if ranks > 0 and document.size
            else "give tokens and ranks",
        )
    _check_window(window)


def _find_divisors(tokens: int, ranks: int) -> str:
    """The numbers of ranks next to ``ranks``, below and above it, that divide ``tokens``."""
    below = max(each for each in range(1, ranks) if tokens % each == 0)
    above = next((each for each in range(ranks + 1, min(2 * ranks, tokens) + 1) if tokens % each == 0), None)
    return f"{below}" if above is None else f"{below} or {above}"


def _check_window(window: int | None) -> None:
    if window is not None and window < 1:
        raise UserError(
            "a window must have at least one token",
            where="window",
            why=f"it is {window}",
            fix="give 1 or more, or no window",
        )
