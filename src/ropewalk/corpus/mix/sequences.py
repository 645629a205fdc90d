"""Packs each stratum epoch by epoch, and mixes the strata of a source into the sequences of the source.

A stratum is packed when its next epoch is needed, so a plan of few sequences packs few epochs. The mix is kept at two
levels, each to one sequence: between sources over the whole run, and between the strata of a source within the source.

A stage may have twenty million sequences, so what is kept for each of them lies in arrays and not in lists.
"""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from ropewalk.core.seed import stream
from ropewalk.corpus.mix.mixture import MixtureOrder
from ropewalk.corpus.mix.packing import Packing, chunk, pack, split_parts
from ropewalk.corpus.mix.strata import Stratum
from ropewalk.corpus.tokens.joined_documents import JoinedDocuments
from ropewalk.corpus.tokens.labels import count_segment_labels
from ropewalk.corpus.tokens.store import StoredDocuments

Purpose = tuple[str | int, ...]
_BLOCK_SEQUENCES = 1 << 16
"""Sequences of an epoch whose lengths are held as Python numbers at a time."""


class StratumSequences:
    """The sequences of one stratum, epoch after epoch, up to ``limit_tokens`` tokens."""

    def __init__(
        self, stratum: Stratum, *, context_tokens: int, purpose: Purpose, limit_tokens: float, packing: str
    ) -> None:
        self.stratum, self._context_tokens, self._packing = stratum, context_tokens, packing
        self._purpose, self._limit_tokens = purpose, limit_tokens
        self._epochs: list[Packing] = []
        self._first_sequences: list[int] = []
        self._asked, self._asked_tokens = 0, 0
        self._waiting: list[int] = []
        self._lengths, self._taken = np.empty(0, dtype=np.int64), 0
        self.cut = (0, 0)
        """(documents, tokens) of the documents that would fit into a sequence but are cut, in the first epoch."""

    def next_tokens(self) -> int:
        """Tokens of the next sequence; 0 where it would exceed the limit of the stratum."""
        if not self._waiting:
            if self._taken == len(self._lengths):
                self._begin_epoch()
            block = self._lengths[self._taken : self._taken + _BLOCK_SEQUENCES]
            self._taken += len(block)
            self._waiting = block.tolist()[::-1]
        tokens = self._waiting.pop()
        self._asked += 1
        self._asked_tokens += tokens
        return tokens if self._asked_tokens <= self._limit_tokens else 0

    def segments(self, sequence: int) -> list[tuple[int, int, int]]:
        """(document, start, tokens) of each segment of a sequence that ``next_tokens`` has already reached."""
        epoch = int(np.searchsorted(self._first_sequences, sequence, side="right")) - 1
        packing, local = self._epochs[epoch], sequence - self._first_sequences[epoch]
        span = slice(int(packing.sequence_ends[local - 1]) if local else 0, int(packing.sequence_ends[local]))
        columns = (packing.document[span], packing.start[span], packing.tokens[span])
        return list(zip(*(column.tolist() for column in columns), strict=True))

    def segment_tokens(self, sequences: int) -> Int64[np.ndarray, "segments"]:
        """The length in tokens of every segment in the first ``sequences`` sequences."""
        found = [np.empty(0, dtype=np.int64)]
        for first, packing in zip(self._first_sequences, self._epochs, strict=True):
            here = min(sequences - first, len(packing.sequence_ends))
            found.append(packing.tokens[: packing.sequence_ends[here - 1]] if here > 0 else found[0])
        return np.concatenate(found)

    def sequence_labels(self, sequences: int) -> Int64[np.ndarray, "sequences"]:
        """The number of labels in each of the first ``sequences`` sequences."""
        found = [np.empty(0, dtype=np.int64)]
        for first, packing in zip(self._first_sequences, self._epochs, strict=True):
            ends = packing.sequence_ends[: max(0, sequences - first)]
            if len(ends):
                segments = (column[: ends[-1]] for column in (packing.document, packing.start, packing.tokens))
                labels = count_segment_labels(self.stratum.documents, *segments)
                found.append(np.add.reduceat(labels, np.concatenate([[0], ends[:-1]])))
        return np.concatenate(found)

    def _begin_epoch(self) -> None:
        random = stream(*self._purpose, len(self._epochs))
        documents, lengths = self.stratum.documents, self.stratum.lengths
        part_starts = documents.part_starts if isinstance(documents, JoinedDocuments) else None
        if self._packing == "chunk":
            packing = chunk(lengths, context_tokens=self._context_tokens, random=random)
        else:
            packing = pack(lengths, context_tokens=self._context_tokens, random=random, part_starts=part_starts)
        if not self._epochs:
            self.cut = packing.count_cut(lengths, self._context_tokens)
        if isinstance(documents, JoinedDocuments) and documents.attend == "parts":
            packing = split_parts(packing, documents.part_starts)
        self._first_sequences.append(self._asked)
        self._epochs.append(packing)
        self._lengths, self._taken = packing.sequence_tokens, 0


class SourceSequences:
    """The sequences of one source. In every prefix each stratum is within one sequence of its share of the source."""

    def __init__(self, strata: Sequence[StratumSequences], *, context_tokens: int) -> None:
        self.strata = strata
        self.share = sum(own.stratum.share for own in strata)
        self._stratum, self._tokens, self._index = array("i"), array("q"), array("q")
        self._given = [0] * len(strata)
        self._schedule = MixtureOrder(
            [own.stratum.share / self.share for own in strata],
            context_tokens=context_tokens,
            next_sequence=lambda number: strata[number].next_tokens(),
        )

    @property
    def name(self) -> str:
        return self.strata[0].stratum.source

    def next_tokens(self) -> int:
        """Tokens of the next sequence; 0 where the selected stratum has no more text."""
        stratum, tokens = self._schedule.deal()
        self._stratum.append(stratum)
        self._tokens.append(tokens)
        self._index.append(self._given[stratum])
        self._given[stratum] += 1
        return tokens

    def segments(self, sequence: int) -> tuple[StoredDocuments, list[tuple[int, int, int]]]:
        """The documents of sequence number ``sequence``, and (document, start, tokens) of each of its segments."""
        own = self.strata[self._stratum[sequence]]
        return own.stratum.documents, own.segments(self._index[sequence])

    def dealt(self, sequences: int) -> list[int]:
        """Tokens of each stratum in the first ``sequences`` sequences of the source."""
        tokens = np.array(self._tokens[:sequences], dtype=np.float64)
        return [int(count) for count in np.bincount(self._stratum[:sequences], tokens, minlength=len(self.strata))]

    def segment_tokens(self, sequences: int) -> Int64[np.ndarray, "segments"]:
        """The tokens of every segment in the first ``sequences`` sequences of the source, stratum by stratum."""
        given = np.bincount(self._stratum[:sequences], minlength=len(self.strata)).tolist()
        return np.concatenate(
            [stratum.segment_tokens(count) for stratum, count in zip(self.strata, given, strict=True)]
        )

    def count_unlabelled(self, sequences: int) -> int:
        """The number of sequences without a label among the first ``sequences`` of the source."""
        given = np.bincount(self._stratum[:sequences], minlength=len(self.strata)).tolist()
        return sum(
            int((stratum.sequence_labels(count) == 0).sum()) for stratum, count in zip(self.strata, given, strict=True)
        )

    @property
    def turn(self) -> StratumSequences:
        """The stratum of the latest sequence that ``next_tokens`` gave."""
        return self.strata[self._stratum[-1]]


@dataclass(frozen=True, slots=True)
class StratumUse:
    """The use of one stratum in a dataset: its share, its tokens, and how often its text is read."""

    name: str
    source: str
    language: str | None
    shortest_tokens: int | None
    planned: float
    tokens: int
    held_tokens: int
    repeats: float
    cut_documents: int
    cut_tokens: int
