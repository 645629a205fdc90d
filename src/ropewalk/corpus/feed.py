"""The rows that a stage is trained on: a pure function of (corpus, mix, row length, seed, stage, cursor).

Every epoch of every source is reshuffled and packed anew; then the schedule deals rows out. All of that happens once,
on indices, when a feed is opened; a batch is read from the mapped shards when asked for. The state is one integer.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int32, Int64

from ropewalk.core.digest import digest_value
from ropewalk.core.error import UserError
from ropewalk.core.quantity import format_amount
from ropewalk.core.record import Batch
from ropewalk.core.seed import stream
from ropewalk.corpus.folder import Corpus
from ropewalk.corpus.mix import schedule_rows, source_shares
from ropewalk.corpus.pack import Packing, pack
from ropewalk.corpus.store import Documents

ORDER = 1
"""Rises when the same inputs would give other rows."""


class SourceRows:
    """One source's rows, epoch after epoch, up to ``limit_tokens``."""

    def __init__(
        self, documents: Documents, *, context_tokens: int, purpose: tuple[str | int, ...], limit_tokens: float
    ) -> None:
        self.documents, self._context_tokens = documents, context_tokens
        self._purpose, self._limit_tokens = purpose, limit_tokens
        self._epochs: list[Packing] = []
        self._first_rows: list[int] = []
        self._asked, self._asked_tokens = 0, 0
        self._waiting: list[int] = []

    def next_tokens(self) -> int:
        """Tokens of the next row; 0 where it would take the source beyond its limit."""
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

    def _begin_epoch(self) -> None:
        random = stream(*self._purpose, len(self._epochs))
        packing = pack(self.documents.lengths, context_tokens=self._context_tokens, random=random)
        self._first_rows.append(self._asked)
        self._epochs.append(packing)
        self._waiting = packing.row_tokens.tolist()[::-1]


@dataclass(frozen=True)
class Feed:
    """All rows of a stage, by index."""

    digest: str
    sources: tuple[str, ...]
    planned: Mapping[str, float]
    """Each source's share of the tokens."""
    context_tokens: int
    dropped_tokens: Mapping[str, int]
    """Left out of each epoch of a source because their documents are longer than a row; 0 where those are split."""
    _rows: tuple[SourceRows, ...]
    _source: Int32[np.ndarray, "rows"]
    _tokens: Int64[np.ndarray, "rows"]
    _index: Int64[np.ndarray, "rows"]
    _padding_id: int

    @property
    def rows(self) -> int:
        """How many rows were planned."""
        return len(self._source)

    @property
    def padding_tokens(self) -> int:
        """Of all planned rows."""
        return self.rows * self.context_tokens - int(self._tokens.sum())

    @property
    def repeats(self) -> dict[str, float]:
        """How often each source is read over all planned rows."""
        return {
            name: tokens / rows.documents.tokens
            for (name, tokens), rows in zip(self.realised(self.rows).items(), self._rows, strict=True)
        }

    def realised(self, cursor: int) -> dict[str, int]:
        """Tokens that each source has given in the first ``cursor`` rows."""
        tokens = np.bincount(
            self._source[:cursor], weights=self._tokens[:cursor].astype(np.float64), minlength=len(self.sources)
        )
        return {name: int(count) for name, count in zip(self.sources, tokens, strict=True)}

    def batch(self, cursor: int, rows: int) -> Batch:
        """Rows ``[cursor, cursor + rows)``: the same however a run is cut into batches."""
        assert 0 <= cursor <= cursor + rows <= self.rows, f"rows {cursor}:{cursor + rows} of {self.rows}"
        shape = (rows, self.context_tokens)
        batch = Batch(
            tokens=np.full(shape, self._padding_id, dtype=np.int32),
            labels=np.zeros(shape, dtype=np.int32),
            weights=np.zeros(shape, dtype=np.float32),
            positions=np.zeros(shape, dtype=np.int32),
            document=np.full(shape, -1, dtype=np.int32),
            source=np.full(shape, -1, dtype=np.int32),
        )
        for row in range(rows):
            self._fill(batch, row, cursor + row)
        return batch

    def document_tokens(self, number: int) -> list[int]:
        """Lengths of the documents, or pieces of them, that row ``number`` holds, in order; nothing is read."""
        return [tokens for _, _, tokens in self._rows[int(self._source[number])].pieces(int(self._index[number]))]

    def locate(self, number: int) -> tuple[str, list[dict[str, int]]]:
        """Where a row's text comes from: its source, and the pieces' documents (numbered as in the source's store)."""
        source = int(self._source[number])
        rows = self._rows[source]
        pieces = rows.pieces(int(self._index[number]))
        return self.sources[source], [
            {"document": int(rows.documents.chosen[document]), "start": start, "tokens": tokens}
            for document, start, tokens in pieces
        ]

    def _fill(self, batch: Batch, row: int, number: int) -> None:
        source = int(self._source[number])
        rows = self._rows[source]
        at = 0
        for order, (document, start, tokens) in enumerate(rows.pieces(int(self._index[number]))):
            ids, mask = rows.documents.read(document, start, start + tokens)
            here = slice(at, at + tokens)
            batch.tokens[row, here] = ids
            batch.labels[row, at : at + tokens - 1] = ids[1:]
            batch.weights[row, at : at + tokens - 1] = mask[1:]
            batch.positions[row, here] = np.arange(tokens)
            batch.document[row, here] = order
            batch.source[row, here] = source
            at += tokens


def open_feed(
    corpus: Corpus,
    *,
    mix: Mapping[str, float],
    context_tokens: int,
    rows: int,
    seed: int,
    stage: int,
    max_repeats: float,
) -> Feed:
    """Plan ``rows`` rows of ``context_tokens``. Raises UserError if a source has too little text for its share."""
    facts = {name: corpus.facts(name) for name in corpus.sources}
    documents, dropped = {}, {}
    for name in corpus.sources:
        held = corpus.train(name)
        documents[name] = held if corpus.long_documents == "split" else _fitting(held, context_tokens)
        dropped[name] = held.tokens - documents[name].tokens
    shares = source_shares(
        mix,
        roles={name: facts[name].role for name in facts},
        tokens={name: documents[name].tokens for name in facts},
    )
    planned = [
        SourceRows(
            documents[name],
            context_tokens=context_tokens,
            purpose=("order", ORDER, corpus.digest, seed, stage, name),
            limit_tokens=max_repeats * documents[name].tokens,
        )
        for name in shares
    ]
    source, tokens = schedule_rows(
        list(shares.values()),
        rows=rows,
        context_tokens=context_tokens,
        next_row=lambda index: planned[index].next_tokens(),
    )
    if len(tokens) and tokens[-1] == 0:
        name = list(shares)[source[-1]]
        _refuse_dry(name, shares[name], documents[name].tokens, max_repeats, (int(tokens.sum()), rows * context_tokens))
    index = np.zeros(len(source), dtype=np.int64)
    for number in range(len(shares)):
        index[source == number] = np.arange((source == number).sum())
    return Feed(
        digest=digest_value([ORDER, corpus.digest, dict(shares), context_tokens, seed, stage, corpus.long_documents]),
        sources=tuple(shares),
        planned=shares,
        context_tokens=context_tokens,
        dropped_tokens={name: dropped[name] for name in shares},
        _rows=tuple(planned),
        _source=source,
        _tokens=tokens,
        _index=index,
        _padding_id=corpus.eos_id,
    )


def _fitting(documents: Documents, context_tokens: int) -> Documents:
    return Documents(documents.shards, documents.chosen[documents.lengths <= context_tokens])


def _refuse_dry(name: str, share: float, held: int, max_repeats: float, reached_and_planned: tuple[int, int]) -> None:
    reached, planned = reached_and_planned
    raise UserError(
        f"source {name} runs dry",
        where=f"mix: {name} gives {share:.2%} of {format_amount(planned)} tokens",
        why=f"its {format_amount(held)} tokens, read at most {max_repeats:g} times, last for {format_amount(reached)}",
        fix=f"give it at most {share * reached / planned:.2%}, add text, shorten the stage, or raise max_repeats to "
        f"{np.ceil(share * planned / held * 10) / 10:g}",
    )
