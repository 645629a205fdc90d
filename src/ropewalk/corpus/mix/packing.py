"""Packs documents into sequences of one length, in one of two ways.

``pack`` is best fit, longest first, within shuffled windows: a document that fits into a sequence is never cut. A
longer document becomes full sequences and a tail, which is packed like any other document. ``chunk`` joins all
documents and cuts at the end of every sequence. It needs no padding, but a cut document loses its context (at 8Ki, of
documents of 1,700 tokens, one in seven is cut, with a third of the tokens). Neither way drops a token.

If ``pack`` sorted all documents at once, some sequences would hold short documents only. A window of 131,072 segments
keeps the order random and wastes under 0.1 % (packing per 1,000 segments wastes up to a quarter at 512Ki).

Only one window at a time is held as Python objects: 20 million documents as lists would take several gigabytes.
"""

from bisect import bisect_left, insort
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain

import numpy as np
from jaxtyping import Int64

from ropewalk.core.ranges import count_within, expand_ranges

_WINDOW_SEGMENTS = 1 << 17


@dataclass(frozen=True, slots=True)
class Packing:
    """Sequences as runs of segments: sequence ``i`` holds segments ``[sequence_ends[i - 1], sequence_ends[i])``.

    Segment ``p`` is tokens ``[start[p], start[p] + tokens[p])`` of document ``document[p]``.
    """

    document: Int64[np.ndarray, "segments"]
    start: Int64[np.ndarray, "segments"]
    tokens: Int64[np.ndarray, "segments"]
    sequence_ends: Int64[np.ndarray, "sequences"]

    @property
    def sequence_tokens(self) -> Int64[np.ndarray, "sequences"]:
        """Tokens in each sequence. The rest of the sequence is padding."""
        total = np.concatenate([[0], np.cumsum(self.tokens)])
        return np.diff(total[self.sequence_ends], prepend=0)

    def count_cut(self, lengths: Int64[np.ndarray, "documents"], context_tokens: int) -> tuple[int, int]:
        """(documents, tokens) of the documents that would fit into a sequence but are cut."""
        segments = np.bincount(self.document, minlength=len(lengths))
        cut = (segments > 1) & (lengths <= context_tokens)
        return int(cut.sum()), int(lengths[cut].sum())


PartStarts = Callable[[int], Int64[np.ndarray, "parts"]]
"""The offsets in tokens at which the parts of a document begin; the first is 0."""


def pack(
    lengths: Int64[np.ndarray, "documents"],
    *,
    context_tokens: int,
    random: np.random.Generator,
    part_starts: PartStarts | None = None,
) -> Packing:
    """Pack every token of documents with these ``lengths`` into sequences of at most ``context_tokens``.

    The sequences are in random order. Documents with parts are cut where a part begins, if the part fits.
    """
    document, start, tokens = split_documents(lengths, context_tokens, part_starts)
    order = random.permutation(len(tokens))
    fitted, counts = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int64)]
    for begin in range(0, len(order), _WINDOW_SEGMENTS):
        window = order[begin : begin + _WINDOW_SEGMENTS]
        sequences = fit_sequences(tokens[window], context_tokens)
        fitted.append(window[np.fromiter(chain.from_iterable(sequences), dtype=np.int64, count=len(window))])
        counts.append(np.fromiter(map(len, sequences), dtype=np.int64, count=len(sequences)))
    sizes = np.concatenate(counts)
    shuffled = random.permutation(len(sizes))
    begins = np.cumsum(sizes) - sizes
    flat = np.concatenate(fitted)[expand_ranges(begins[shuffled], sizes[shuffled])]
    return Packing(document[flat], start[flat], tokens[flat], np.cumsum(sizes[shuffled], dtype=np.int64))


def chunk(lengths: Int64[np.ndarray, "documents"], *, context_tokens: int, random: np.random.Generator) -> Packing:
    """Join all documents in random order and cut at the end of every sequence. The sequences are in random order."""
    order = random.permutation(len(lengths))
    ends = np.cumsum(lengths[order])
    borders = np.union1d(ends, np.arange(context_tokens, ends[-1] if len(ends) else 0, context_tokens))
    begins = np.concatenate([np.zeros(1, dtype=np.int64), borders])[: len(borders)]
    at = np.searchsorted(ends, begins, side="right")
    sequence = begins // context_tokens
    sequences = random.permutation(int(sequence[-1]) + 1 if len(sequence) else 0)
    place = np.argsort(np.argsort(sequences)[sequence], kind="stable")
    start, tokens = begins - (ends - lengths[order])[at], borders - begins
    counts = np.bincount(sequence, minlength=len(sequences))[sequences]
    return Packing(order[at][place], start[place], tokens[place], np.cumsum(counts, dtype=np.int64))


def split_documents(
    lengths: Int64[np.ndarray, "documents"], context_tokens: int, part_starts: PartStarts | None = None
) -> tuple[Int64[np.ndarray, "segments"], Int64[np.ndarray, "segments"], Int64[np.ndarray, "segments"]]:
    """(document, start, tokens) of each segment. Documents are cut every ``context_tokens`` tokens, never truncated."""
    segments = -(-lengths // context_tokens)
    document = np.repeat(np.arange(len(lengths)), segments)
    start = count_within(segments) * context_tokens
    if part_starts is not None:
        at_parts = [
            _cut_at_parts(part_starts(number), int(lengths[number]), context_tokens) if count > 1 else [0] * count
            for number, count in enumerate(segments.tolist())
        ]
        document = np.repeat(np.arange(len(lengths)), [len(starts) for starts in at_parts])
        start = np.array([begin for starts in at_parts for begin in starts], dtype=np.int64)
        ends = np.append(start[1:], 0)
        ends[np.flatnonzero(np.diff(document, append=-1))] = lengths[segments > 0]
        return document, start, ends - start
    return document, start, np.minimum(lengths[document] - start, context_tokens)


def _cut_at_parts(starts: Int64[np.ndarray, "parts"], length: int, context_tokens: int) -> list[int]:
    """Where the segments of a document begin: at the last part that begins within reach, else at the reach itself."""
    found, at = [0], 0
    while length - at > context_tokens:
        part = int(starts[np.searchsorted(starts, at + context_tokens, side="right") - 1])
        at = part if part > at else at + context_tokens
        found.append(at)
    return found


def split_parts(packing: Packing, part_starts: PartStarts) -> Packing:
    """The same sequences with each part of a document as a segment of its own: so no part attends to another."""
    cuts = [0]
    columns: list[Int64[np.ndarray, _]] = []
    segments = zip(packing.document.tolist(), packing.start.tolist(), packing.tokens.tolist(), strict=True)
    for document, start, tokens in segments:
        starts = part_starts(document)
        inner = starts[(starts > start) & (starts < start + tokens)]
        begins = np.append(start, inner)
        columns.append(np.stack([np.full(len(begins), document), begins, np.diff(begins, append=start + tokens)]))
        cuts.append(cuts[-1] + len(begins))
    table = np.concatenate([np.empty((3, 0), dtype=np.int64), *columns], axis=1)
    return Packing(table[0], table[1], table[2], np.array(cuts, dtype=np.int64)[packing.sequence_ends])


def fit_sequences(tokens: Int64[np.ndarray, "segments"], context_tokens: int) -> list[list[int]]:
    """Lists of segment numbers, one per sequence.

    Each segment, longest first, is put into the sequence where the smallest space is left.
    """
    sequences: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (tokens still free, sequence), sorted
    for segment in np.argsort(-tokens, kind="stable"):
        size = int(tokens[segment])
        at = bisect_left(room, (size, -1))
        if at == len(room):
            free, sequence = context_tokens, len(sequences)
            sequences.append([])
        else:
            free, sequence = room.pop(at)
        sequences[sequence].append(int(segment))
        if free > size:
            insort(room, (free - size, sequence))
    return sequences
