"""A partition: the owner of each token, the tiles of each rank, and the keys that it must receive. Plain data.

It is made once for each batch from the document ids alone, ahead of the step, and every layer reads it. All ranks
compute the same partition, so it is never sent.
"""

from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from jaxtyping import Int32, Int64

from ropewalk.core.error import UserError
from ropewalk.partition.cost import PRICE, Price, choose_cheapest, count_pairs, count_rows, price_segments
from ropewalk.partition.layout import LAYOUTS as LAYOUTS
from ropewalk.partition.layout import propose
from ropewalk.partition.needed_keys import NeededKeys, find_needed_keys
from ropewalk.partition.segments import Ranges, Segments, find_documents, make_segments
from ropewalk.partition.tiles import (
    Queries,
    Tiles,
    cut_bands,
    join_documents,
    make_causal_tiles,
    make_full_tiles,
    make_window_tiles,
)

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
        return self._runs(rank).expand()

    def document_tokens(self, rank: int) -> Int64[np.ndarray, "local"]:
        """How long the document of each of the rank's tokens is, all ranks' parts together; 0 for padding."""
        real, begin = self.segments.document >= 0, self.segments.begin
        length = np.bincount(
            begin[real], weights=(self.segments.stop - self.segments.start)[real], minlength=self.tokens
        )
        mine = self.segments.owner == rank
        each = np.where(real, length[begin], 0).astype(np.int64)
        return np.repeat(each[mine], self._runs(rank).length)

    def causal_tiles(self, rank: int) -> Tiles:
        """The rank's tiles of rows against themselves; with ``tiles`` of all steps they are all it computes."""
        return make_causal_tiles(self._own_queries(rank))

    def tiles(self, rank: int) -> tuple[Tiles, ...]:
        """The rank's other tiles, for each step; step 0 reads its own rows, step i the i-th block that it receives."""
        cut = cut_bands(self._pieces(rank), self.window)
        own = self._find_tiles(self._own_queries(rank), self._runs(rank))
        return (own, *(self._find_tiles(cut, block) for block in self.blocks(rank)))

    def blocks(self, rank: int) -> tuple[Ranges, ...]:
        """Packed rows of the blocks that the exchange brings: all rows of one rank after the other in a ring, else one
        block with just the rows that this rank needs, in packed order; none if no rank needs any."""
        if not self.exchanges:
            return ()
        if self.exchange == "ring":
            return tuple(self._runs((rank - step) % self.ranks) for step in range(1, self.ranks))
        mine = self.needed_keys.rank == rank
        return (Ranges(self.needed_keys.start[mine], self.needed_keys.stop[mine]),)

    def received(self, rank: int, source: int) -> Int64[np.ndarray, "rows"]:
        """Packed indices of the key rows that ``rank`` needs from ``source``, ascending."""
        chosen = (self.needed_keys.rank == rank) & (self.segments.owner[self.needed_keys.segment] == source)
        return Ranges(self.needed_keys.start[chosen], self.needed_keys.stop[chosen]).expand()

    def localise(self, packed: Int64[np.ndarray, "rows"]) -> tuple[np.ndarray, np.ndarray]:
        """Owner of each packed index, and where the token stands in its owner's local order."""
        segment = np.searchsorted(self.segments.start, packed, side="right") - 1
        return self.segments.owner[segment], self.segments.local[segment] + packed - self.segments.start[segment]

    @cached_property
    def needed_keys(self) -> NeededKeys:
        """Rows that some rank needs and does not own."""
        return find_needed_keys(self.segments, self.ranks, self.window)

    @cached_property
    def exchanges(self) -> bool:
        """Whether any rank needs any row of another one."""
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
    def rows(self) -> Int64[np.ndarray, "ranks ranks"]:
        """Key rows that reach rank [i] from rank [j] in one layer's forward; a ring's rows count for who owns them."""
        if self.exchange == "needed_kv" or not self.exchanges:
            return count_rows(self.segments, self.ranks, self.window)
        return np.full((self.ranks, self.ranks), self.local_tokens) - np.diag([self.local_tokens] * self.ranks)

    def describe(self) -> str:
        """The cut in a line: who owns what, how keys travel, how even the work is."""
        others = (self.ranks - 1) * self.tokens
        sent = f", {self.rows.sum() / others:.0%} of a ring's rows sent" if self.exchanges else ", nothing sent"
        return f"{self.layout} over {self.ranks} ranks, {self.exchange}: work max/mean {self.balance:.2f}{sent}"

    def _runs(self, rank: int) -> Ranges:
        mine = self.segments.owner == rank
        return Ranges(self.segments.start[mine], self.segments.stop[mine])

    def _pieces(self, rank: int) -> Queries:
        mine = (self.segments.owner == rank) & (self.segments.document >= 0)
        packed = Ranges(self.segments.start[mine], self.segments.stop[mine])
        return Queries(packed, self.segments.local[mine], packed.length, self.segments.begin[mine])

    def _own_queries(self, rank: int) -> Queries:
        return cut_bands(join_documents(self._pieces(rank), self.window), self.window)

    def _find_tiles(self, queries: Queries, block: Ranges) -> Tiles:
        rectangles = make_full_tiles(queries, block, self.window)
        return Tiles(np.concatenate([rectangles.columns, make_window_tiles(queries, block, self.window).columns]))


def partition_tokens(
    document: Int32[np.ndarray, "rows context"],
    *,
    ranks: int,
    layout: str = "auto",
    exchange: str = "auto",
    window: int | None = None,
    price: Price = PRICE,
) -> Partition:
    """Cut packed rows over ``ranks`` context ranks.

    ``document`` holds an id for each token, the same for the tokens of one document, -1 for padding; the rows are laid
    end to end. ``window`` is how many keys a query sees, itself included; None for all of its document. ``price`` is
    what ``auto`` chooses by. Raises UserError for an unknown layout or exchange, and where the tokens do not divide by
    the ranks.
    """
    _check(document, ranks, layout=layout, exchange=exchange, window=window)
    documents = find_documents(document)
    proposals = ((name, make_segments(documents, owned, ranks)) for name, owned in propose(documents, ranks, layout))
    name, segments = choose_cheapest(proposals, ranks, window=window, price=price)
    exchange = _choose_exchange(segments, ranks, window, price) if exchange == "auto" else exchange
    return Partition(ranks, documents.tokens, name, exchange, window, segments)


def _choose_exchange(segments: Segments, ranks: int, window: int | None, price: Price) -> str:
    """A ring sends all rows, and pays where that is hidden and the needed ones, in one go, are not.

    An all-gather is never cheaper than the needed rows, which are the same message with less in it.
    """
    if not price.overlaps or ranks == 1:
        return "needed_kv"
    costs = {each: price_segments(segments, ranks, window=window, price=price, exchange=each)[0] for each in _CHOICES}
    return min(_CHOICES, key=costs.__getitem__)


def _check(document: np.ndarray, ranks: int, *, layout: str, exchange: str, window: int | None) -> None:
    for key, value, allowed in (("layout", layout, LAYOUTS), ("exchange", exchange, EXCHANGES)):
        if value not in allowed:
            raise UserError(
                f"there is no {key} {value!r}", where=f"parallel.{key}", why="", fix=f"one of {', '.join(allowed)}"
            )
    if ranks < 1 or document.size == 0 or document.size % ranks:
        raise UserError(
            "rows cannot be cut into equal shares",
            where="parallel.context_parallel",
            why=f"{document.size} tokens ({' x '.join(map(str, document.shape))}) over {ranks} context ranks",
            fix="choose a context length that is a multiple of the context ranks",
        )
    _check_window(window)


def _check_window(window: int | None) -> None:
    if window is not None and window < 1:
        raise UserError(
            "a window must hold a token", where="window", why=f"it is {window}", fix="give 1 or more, or none at all"
        )
