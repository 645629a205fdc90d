"""Rows before they are mixed: each strand packed epoch after epoch, and a source's strands dealt out among themselves.

A strand is packed when its turn comes, so a plan of few rows packs few epochs. The surprising part: the mix is held
twice, between sources over the whole run and between the strands of a source within it, each to one row.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from ropewalk.core.seed import stream
from ropewalk.corpus.mix.mixture import Schedule
from ropewalk.corpus.mix.packing import Packing, chunk, pack
from ropewalk.corpus.mix.strata import Strand
from ropewalk.corpus.tokens.labels import count_piece_labels
from ropewalk.corpus.tokens.store import Documents

Purpose = tuple[str | int, ...]


class StrandRows:
    """One strand's rows, epoch after epoch, up to ``limit_tokens``."""

    def __init__(
        self, strand: Strand, *, context_tokens: int, purpose: Purpose, limit_tokens: float, packing: str
    ) -> None:
        self.strand, self._context_tokens, self._pack = strand, context_tokens, {"fit": pack, "chunk": chunk}[packing]
        self._purpose, self._limit_tokens = purpose, limit_tokens
        self._epochs: list[Packing] = []
        self._first_rows: list[int] = []
        self._asked, self._asked_tokens = 0, 0
        self._waiting: list[int] = []

    def next_tokens(self) -> int:
        """Tokens of the next row; 0 where it would take the strand beyond its limit."""
        if not self._waiting:
            self._begin_epoch()
        tokens = self._waiting.pop()
        self._asked += 1
        self._asked_tokens += tokens
        return tokens if self._asked_tokens <= self._limit_tokens else 0

    def pieces(self, row: int) -> list[tuple[int, int, int]]:
        """(document, start, tokens) of each piece of a row that ``next_tokens`` has come to."""
        epoch = int(np.searchsorted(self._first_rows, row, side="right")) - 1
        packing, local = self._epochs[epoch], row - self._first_rows[epoch]
        span = slice(int(packing.row_ends[local - 1]) if local else 0, int(packing.row_ends[local]))
        columns = (packing.document[span], packing.start[span], packing.tokens[span])
        return list(zip(*(column.tolist() for column in columns), strict=True))

    def piece_tokens(self, rows: int) -> Int64[np.ndarray, "pieces"]:
        """The length of every piece in the first ``rows`` rows."""
        found = [np.empty(0, dtype=np.int64)]
        for first, packing in zip(self._first_rows, self._epochs, strict=True):
            here = min(rows - first, len(packing.row_ends))
            found.append(packing.tokens[: packing.row_ends[here - 1]] if here > 0 else found[0])
        return np.concatenate(found)

    def row_labels(self, rows: int) -> Int64[np.ndarray, "rows"]:
        """The labels of each of the first ``rows`` rows."""
        found = [np.empty(0, dtype=np.int64)]
        for first, packing in zip(self._first_rows, self._epochs, strict=True):
            ends = packing.row_ends[: max(0, rows - first)]
            if len(ends):
                pieces = (column[: ends[-1]] for column in (packing.document, packing.start, packing.tokens))
                labels = count_piece_labels(self.strand.documents, *pieces)
                found.append(np.add.reduceat(labels, np.concatenate([[0], ends[:-1]])))
        return np.concatenate(found)

    @property
    def cut(self) -> tuple[int, int]:
        """(documents, tokens) that would fit into a row and are cut all the same, in the first epoch."""
        return self._epochs[0].count_cut(self.strand.lengths, self._context_tokens)

    def _begin_epoch(self) -> None:
        random = stream(*self._purpose, len(self._epochs))
        packing = self._pack(self.strand.lengths, context_tokens=self._context_tokens, random=random)
        self._first_rows.append(self._asked)
        self._epochs.append(packing)
        self._waiting = packing.row_tokens.tolist()[::-1]


class SourceRows:
    """One source's rows: its strands', each within one row of its share of the source at every prefix."""

    def __init__(self, strands: Sequence[StrandRows], *, context_tokens: int) -> None:
        self.strands = strands
        self.share = sum(rows.strand.share for rows in strands)
        self._strand: list[int] = []
        self._tokens: list[int] = []
        self._index: list[int] = []
        self._given = [0] * len(strands)
        self._schedule = Schedule(
            [rows.strand.share / self.share for rows in strands],
            context_tokens=context_tokens,
            next_row=lambda number: strands[number].next_tokens(),
        )

    @property
    def name(self) -> str:
        return self.strands[0].strand.source

    def next_tokens(self) -> int:
        """Tokens of the next row; 0 where the strand whose turn it is has run dry."""
        strand, tokens = self._schedule.deal()
        self._strand.append(strand)
        self._tokens.append(tokens)
        self._index.append(self._given[strand])
        self._given[strand] += 1
        return tokens

    def pieces(self, row: int) -> tuple[Documents, list[tuple[int, int, int]]]:
        """What row number ``row`` reads: pieces of some documents."""
        rows = self.strands[self._strand[row]]
        return rows.strand.documents, rows.pieces(self._index[row])

    def dealt(self, rows: int) -> list[int]:
        """Tokens that each strand gives in the source's first ``rows`` rows."""
        tokens = np.array(self._tokens[:rows], dtype=np.float64)
        return [int(count) for count in np.bincount(self._strand[:rows], tokens, minlength=len(self.strands))]

    def piece_tokens(self, rows: int) -> Int64[np.ndarray, "pieces"]:
        """The length of every piece in the source's first ``rows`` rows, strand by strand."""
        given = np.bincount(self._strand[:rows], minlength=len(self.strands)).tolist()
        return np.concatenate([strand.piece_tokens(count) for strand, count in zip(self.strands, given, strict=True)])

    def count_unlabelled(self, rows: int) -> int:
        """How many of the source's first ``rows`` rows have no label."""
        given = np.bincount(self._strand[:rows], minlength=len(self.strands)).tolist()
        return sum(
            int((strand.row_labels(count) == 0).sum()) for strand, count in zip(self.strands, given, strict=True)
        )

    @property
    def turn(self) -> StrandRows:
        """The strand of the last row that was asked for."""
        return self.strands[self._strand[-1]]


@dataclass(frozen=True, slots=True)
class StrandUse:
    """What a feed makes of one strand: its share, what it gives, and how often its text is read."""

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
