"""The cost of a partition for the recurrent layers of a hybrid model: summaries that travel, and work for them.

A recurrent layer does the same work for each token, so equal tokens are equal work, in any order of the ranks. What a
cut costs is the summary of each segment: (M, U) goes to every rank that owns a later part of the document, only U of
the segment that begins it. An inner segment passes its chunks once more to find M. Then each rank composes what it
received, one segment after the other. All costs are in attention pairs; see ``cost``.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64

from ropewalk.partition.chains import find_chains
from ropewalk.partition.needed_keys import count_traffic_tokens
from ropewalk.partition.segments import Segments
from ropewalk.shape.model_shape import ModelShape
from ropewalk.shape.recurrences import find_recurrence

SUMMARY_BYTES = 4
"""Of a number of a summary: they are composed, and travel, in float32."""
_PASSES = 3
"""A forward and its backward, in forwards."""
_LINK_KERNELS = 4
"""Kernels that are started to compose one more segment: a product and a sum, forward and backward."""


class RecurrentStates(NamedTuple):
    """How large a state is in a model's recurrent layers, all alike; ``per_attention_layer`` of them go with one layer
    with attention.

    ``channels`` of the input pass a causal convolution of ``taps`` tokens; 0 without one. A layer that is a convolution
    alone has no ``heads``.
    """

    kind: str
    heads: int
    key_dim: int
    value_dim: int
    per_attention_layer: float
    channels: int = 0
    taps: int = 1

    @classmethod
    def of_shape(cls, shape: ModelShape) -> "RecurrentStates | None":
        """Those of a model; None for one without recurrent layers."""
        layers = shape.recurrent
        if layers is None:
            return None
        count = len(layers.layers) / max(shape.attention_layers, 1)
        sizes = (layers.heads, layers.key_dim, layers.value_dim)
        return cls(layers.kind, *sizes, per_attention_layer=count, channels=layers.channels, taps=layers.taps)

    def summary_bytes(self, *, begins: bool = False) -> int:
        """Of one segment, in one layer and direction; ``begins``: it begins its document, and needs no M."""
        if not self.heads:
            return 0
        kind = find_recurrence(self.kind)
        return SUMMARY_BYTES * kind.summary_numbers(self.heads, self.key_dim, self.value_dim, begins=begins)

    def summary_operations(self) -> int:
        """Operations a token of an inner segment in one layer's forward, to find M and U."""
        if not self.heads:
            return 0
        return find_recurrence(self.kind).summary_operations(self.heads, self.key_dim, self.value_dim)


@dataclass(frozen=True, slots=True)
class SummaryCounts:
    """Summaries that rank [i] receives from rank [j] in one layer's forward, and what they come from.

    ``whole`` are (M, U), ``states`` U alone. ``inner_tokens`` is the tokens of each rank whose chunks are passed twice,
    ``links`` how many segments a rank composes.
    """

    whole: Int64[np.ndarray, "ranks ranks"]
    states: Int64[np.ndarray, "ranks ranks"]
    inner_tokens: Int64[np.ndarray, "ranks"]
    links: Int64[np.ndarray, "ranks"]

    def received_bytes(self, layers: RecurrentStates) -> Int64[np.ndarray, "ranks"]:
        """Bytes of summaries that each rank receives in one layer's forward; its backward sends as many back."""
        received: np.ndarray = _weigh(self.whole, self.states, layers).sum(1)
        return received

    @property
    def published(self) -> int:
        """Summaries that travel, each counted once for each rank that reads it."""
        return int(self.whole.sum() + self.states.sum())


@dataclass(frozen=True, slots=True)
class SummaryPrice:
    """What the ``layers`` that go with one attention layer cost, in its pairs, forward and backward together.

    They are: a byte that travels, a token of an inner segment, a segment that is composed, and a message.
    ``row_bytes`` is the bytes of a token of the convolution's input.
    """

    layers: RecurrentStates
    byte_pairs: float
    inner_token_pairs: float
    link_pairs: float
    message_pairs: float
    row_bytes: int

    @classmethod
    def of(
        cls,
        layers: RecurrentStates,
        *,
        operation_pairs: float,
        byte_pairs: float,
        kernel_pairs: float,
        message_pairs: float,
        element_bytes: int,
    ) -> "SummaryPrice":
        """Of layers on a device where one operation, byte, kernel and message cost so many pairs."""
        count = layers.per_attention_layer
        composed = 2 * layers.heads * layers.key_dim**2 * layers.value_dim
        messages = (layers.heads > 0) + (layers.taps > 1)  # of summaries, and of the rows before a segment
        return cls(
            layers,
            byte_pairs=2 * count * byte_pairs,
            inner_token_pairs=_PASSES * count * layers.summary_operations() * operation_pairs,
            link_pairs=count
            * (_PASSES * composed * operation_pairs + _LINK_KERNELS * kernel_pairs)
            * (layers.heads > 0),
            message_pairs=count * messages * message_pairs,
            row_bytes=layers.channels * element_bytes,
        )

    def price(self, segments: Segments, ranks: int) -> Float64[np.ndarray, "ranks"]:
        """What a partition's cuts cost each rank; zero where all documents are whole."""
        counts = count_summaries(segments, ranks)
        if not counts.published:
            return np.zeros(ranks)
        moved = count_state_bytes(segments, ranks, self.layers, row_bytes=self.row_bytes)
        # As for keys: a rank waits for its own link, and where links are shared for everybody's: half of each.
        waits = (np.maximum(moved.sum(0), moved.sum(1)) + moved.sum() / ranks) / 2
        cost: np.ndarray = (
            self.byte_pairs * waits
            + self.inner_token_pairs * counts.inner_tokens
            + self.link_pairs * counts.links
            + self.message_pairs
        )
        return cost


def count_state_bytes(
    segments: Segments, ranks: int, layers: RecurrentStates, *, row_bytes: int
) -> Int64[np.ndarray, "ranks ranks"]:
    """Bytes that rank [i] receives from rank [j] in one layer's forward: summaries, and rows before segments."""
    counts = count_summaries(segments, ranks)
    moved = _weigh(counts.whole, counts.states, layers)
    if layers.taps > 1:
        moved += row_bytes * count_traffic_tokens(segments, ranks, layers.taps)
    return moved


def count_summaries(segments: Segments, ranks: int) -> SummaryCounts:
    """The summaries that recurrent layers exchange under a partition."""
    chains = find_chains(segments, ranks)
    begins = ~chains.before[chains.read]
    whole, states = (_count(chains.reader, chains.read, segments, ranks, chosen) for chosen in (~begins, begins))
    inner = chains.before & chains.after
    inner_tokens = _add(segments.owner[inner], segments.ranges.length[inner], ranks)
    # A rank composes every segment before its last one in a document: those that it reads, and its own among them.
    last = np.full((ranks, len(segments.owner)), -1)
    own = np.flatnonzero(segments.document >= 0)
    last[segments.owner[own], segments.document[own]] = own  # the last one of each stays
    rank, document = np.nonzero(last >= 0)
    first = np.searchsorted(segments.ranges.start, segments.begin[last[rank, document]])
    links = _add(rank, last[rank, document] - first, ranks)
    return SummaryCounts(whole, states, inner_tokens, links)


def _weigh(
    whole: Int64[np.ndarray, "ranks ranks"], states: Int64[np.ndarray, "ranks ranks"], layers: RecurrentStates
) -> Int64[np.ndarray, "ranks ranks"]:
    weighed: np.ndarray = whole * layers.summary_bytes() + states * layers.summary_bytes(begins=True)
    return weighed


def _count(
    reader: Int64[np.ndarray, "needs"],
    read: Int64[np.ndarray, "needs"],
    segments: Segments,
    ranks: int,
    chosen: Bool[np.ndarray, "needs"],
) -> Int64[np.ndarray, "ranks ranks"]:
    counts = np.zeros((ranks, ranks), dtype=np.int64)
    np.add.at(counts, (reader[chosen], segments.owner[read[chosen]]), 1)
    return counts


def _add(
    rank: Int64[np.ndarray, "entries"], amount: Int64[np.ndarray, "entries"], ranks: int
) -> Int64[np.ndarray, "ranks"]:
    total = np.zeros(ranks, dtype=np.int64)
    np.add.at(total, rank, amount)
    return total
