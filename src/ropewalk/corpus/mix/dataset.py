"""The sequences of a stage: a pure function of (corpus, mix, sequence length, seed, stage, cursor).

Each source is shuffled and packed again for every epoch, and a schedule then mixes the sequences of all sources. This
is done once, on indices, when a dataset is opened. A batch is read from the mapped shards on request. The state of a
dataset is one integer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Int32, Int64

from ropewalk.core.digest import digest_value
from ropewalk.core.quantity import format_amount
from ropewalk.core.record import Batch
from ropewalk.corpus.mix.mixture import find_most_off, schedule_sequences
from ropewalk.corpus.mix.planned_strata import plan_strata
from ropewalk.corpus.mix.sequences import SourceSequences, StratumSequences, StratumUse
from ropewalk.corpus.mix.strata import DryTextError, Stratum, advise_dry
from ropewalk.corpus.mix_rules import PLAIN, MixRules
from ropewalk.corpus.tokens.corpus_folder import Corpus
from ropewalk.corpus.tokens.long_documents import BeyondSequence
from ropewalk.corpus.tokens.store import StoredDocuments

ORDER = 1
"""Increased when the same inputs would give other sequences."""


@dataclass(frozen=True)
class Dataset:
    """All sequences of a stage, by index. Each has ``context_tokens`` tokens."""

    digest: str
    sources: tuple[str, ...]
    planned: Mapping[str, float]
    """Each source's share of the tokens."""
    context_tokens: int
    beyond_sequence: Mapping[str, BeyondSequence]
    """For each source: the documents and tokens that are not read, as longer than a sequence."""
    _sequences: tuple[SourceSequences, ...]
    _source: Int32[np.ndarray, "sequences"]
    _tokens: Int64[np.ndarray, "sequences"]
    _index: Int64[np.ndarray, "sequences"]
    _padding_id: int

    @property
    def sequences(self) -> int:
        """Number of planned sequences."""
        return len(self._source)

    @property
    def padding_tokens(self) -> int:
        """Padding tokens in all planned sequences."""
        return self.sequences * self.context_tokens - int(self._tokens.sum())

    @property
    def repeats(self) -> dict[str, float]:
        """How often each source is read in all planned sequences."""
        return {
            name: tokens / sum(stratum.stratum.tokens for stratum in source.strata)
            for (name, tokens), source in zip(self.realised(self.sequences).items(), self._sequences, strict=True)
        }

    @property
    def strata(self) -> list[StratumUse]:
        """The use of every stratum in all planned sequences, source by source."""
        used = []
        for number, source in enumerate(self._sequences):
            dealt = source.dealt(int((self._source == number).sum()))
            for own, tokens in zip(source.strata, dealt, strict=True):
                stratum = own.stratum
                facts = (stratum.name, stratum.source, stratum.language, stratum.shortest, stratum.share)
                used.append(StratumUse(*facts, tokens, stratum.tokens, tokens / stratum.tokens, *own.cut))
        return used

    @property
    def most_sequences_off(self) -> float:
        """The largest deviation of a source from its share of the tokens given so far, in sequences."""
        shares = [self.planned[name] for name in self.sources]
        return find_most_off(self._source, self._tokens, shares) / self.context_tokens

    def realised(self, cursor: int) -> dict[str, int]:
        """Tokens of each source in the first ``cursor`` sequences."""
        tokens = np.bincount(
            self._source[:cursor], weights=self._tokens[:cursor].astype(np.float64), minlength=len(self.sources)
        )
        return {name: int(count) for name, count in zip(self.sources, tokens, strict=True)}

    def describe_sequence(self, sequence: int) -> list[tuple[StoredDocuments, int, int, int]]:
        """(documents, document, start, tokens) of each segment of one sequence, for inspection."""
        documents, segments = self._sequences[int(self._source[sequence])].segments(int(self._index[sequence]))
        return [(documents, *segment) for segment in segments]

    def source_of(self, sequence: int) -> str:
        """The source of a sequence."""
        return self.sources[int(self._source[sequence])]

    def segment_tokens(self) -> Int64[np.ndarray, "segments"]:
        """The length in tokens of every segment of all planned sequences, source by source."""
        given = np.bincount(self._source, minlength=len(self.sources)).tolist()
        return np.concatenate([own.segment_tokens(count) for own, count in zip(self._sequences, given, strict=True)])

    @cached_property
    def unlabelled(self) -> dict[str, tuple[int, int]]:
        """For each source: the number of its sequences without a label, and the number of all its sequences."""
        given = np.bincount(self._source, minlength=len(self.sources)).tolist()
        counted = zip(self._sequences, given, strict=True)
        return {own.name: (own.count_unlabelled(count), count) for own, count in counted}

    def batch(self, cursor: int, sequences: int) -> Batch:
        """Sequences ``[cursor, cursor + sequences)``. The result does not depend on how a run is cut into batches."""
        assert 0 <= cursor <= cursor + sequences <= self.sequences, (cursor, sequences, self.sequences)
        shape = (sequences, self.context_tokens)
        batch = Batch(
            tokens=np.full(shape, self._padding_id, dtype=np.int32),
            labels=np.zeros(shape, dtype=np.int32),
            weights=np.zeros(shape, dtype=np.float32),
            positions=np.zeros(shape, dtype=np.int32),
            document=np.full(shape, -1, dtype=np.int32),
            source=np.full(shape, -1, dtype=np.int32),
        )
        for sequence in range(sequences):
            self._fill(batch, sequence, cursor + sequence)
        return batch

    def document_tokens(self, sequence: int) -> list[int]:
        """Lengths in tokens of the documents, or their segments, in a sequence, in order. No shard is read."""
        return [tokens for *_, tokens in self.describe_sequence(sequence)]

    def locate(self, sequence: int) -> tuple[str, list[dict[str, int]]]:
        """The origin of a sequence: its source, and the documents of its segments as numbered in the source's store
        (-1 for headers and separators of joined documents)."""
        return self.source_of(sequence), [
            segment
            for documents, document, start, tokens in self.describe_sequence(sequence)
            for segment in documents.origin(document, start, tokens)
        ]

    def _fill(self, batch: Batch, sequence: int, number: int) -> None:
        source = int(self._source[number])
        documents, segments = self._sequences[source].segments(int(self._index[number]))
        at = 0
        for order, (document, start, tokens) in enumerate(segments):
            ids, mask = documents.read(document, start, start + tokens)
            here = slice(at, at + tokens)
            batch.tokens[sequence, here] = ids
            batch.labels[sequence, at : at + tokens - 1] = ids[1:]
            batch.weights[sequence, at : at + tokens - 1] = mask[1:]
            batch.positions[sequence, here] = np.arange(tokens)
            batch.document[sequence, here] = order
            batch.source[sequence, here] = source
            at += tokens


def open_dataset(
    corpus: Corpus,
    *,
    mix: Mapping[str, float],
    context_tokens: int,
    sequences: int,
    seed: int,
    stage: int,
    max_repeats: float,
    rules: MixRules = PLAIN,
) -> Dataset:
    """Plan ``sequences`` sequences of ``context_tokens``. Raises UserError where a stratum has too little text."""
    strata = plan_strata(
        corpus,
        mix,
        context_tokens=context_tokens,
        tokens=sequences * context_tokens,
        max_repeats=max_repeats,
        rules=rules,
    )
    return deal_sequences(
        corpus,
        strata,
        context_tokens=context_tokens,
        sequences=sequences,
        seed=seed,
        stage=stage,
        max_repeats=max_repeats,
        rules=rules,
    )


def deal_sequences(
    corpus: Corpus,
    strata: Sequence[Stratum],
    *,
    context_tokens: int,
    sequences: int,
    seed: int,
    stage: int,
    max_repeats: float,
    rules: MixRules = PLAIN,
) -> Dataset:
    """Deal ``sequences`` sequences from planned ``strata``; a larger number begins with the same sequences.

    Raises UserError where a stratum has too little text.
    """
    purpose = ("order", ORDER, corpus.digest, seed, stage)
    planned = []
    for name in dict.fromkeys(stratum.source for stratum in strata):
        own = [
            StratumSequences(
                stratum,
                context_tokens=context_tokens,
                purpose=(*purpose, stratum.name),
                # With ``spread`` the limit is already part of the share, and other strata give the rest.
                limit_tokens=np.inf if rules.when_dry == "spread" else max_repeats * stratum.tokens,
                # A document that may not be split is not cut at the end of a sequence either.
                packing=rules.packing if corpus.long_documents[name] == "split" else PLAIN.packing,
            )
            for stratum in strata
            if stratum.source == name
        ]
        planned.append(SourceSequences(own, context_tokens=context_tokens))
    source, tokens = schedule_sequences(
        [source.share for source in planned],
        sequences=sequences,
        context_tokens=context_tokens,
        next_sequence=lambda index: planned[index].next_tokens(),
    )
    if len(tokens) and tokens[-1] == 0:
        dry = planned[source[-1]].turn.stratum
        _refuse_dry(dry, max_repeats, (int(tokens.sum()), sequences * context_tokens))
    index = np.zeros(len(source), dtype=np.int64)
    for number in range(len(planned)):
        index[source == number] = np.arange((source == number).sum())
    return Dataset(
        digest=_name_order(corpus, strata, rules, (context_tokens, seed, stage)),
        sources=tuple(source.name for source in planned),
        planned={source.name: source.share for source in planned},
        context_tokens=context_tokens,
        beyond_sequence={source.name: corpus.find_beyond(source.name, context_tokens) for source in planned},
        _sequences=tuple(planned),
        _source=source,
        _tokens=tokens,
        _index=index,
        _padding_id=corpus.eos_id,
    )


def _name_order(corpus: Corpus, strata: Sequence[Stratum], rules: MixRules, place: tuple[int, int, int]) -> str:
    """The digest of all that determines the sequences. Default values are left out, so that old digests stay valid."""
    shares = {stratum.name: stratum.share for stratum in strata}
    kinds = {stratum.source: corpus.long_documents[stratum.source] for stratum in strata}
    one = next(iter(kinds.values()))
    made_of: list[Any] = [ORDER, corpus.digest, shares, *place, one if {*kinds.values()} == {one} else kinds]
    return digest_value([*made_of, rules.packing] if rules.packing != PLAIN.packing else made_of)


def _refuse_dry(stratum: Stratum, max_repeats: float, reached_and_planned: tuple[int, int]) -> None:
    reached, planned = reached_and_planned
    share, held = stratum.share, stratum.tokens
    raise DryTextError(
        f"source {stratum.name} runs dry",
        where=f"mix: {stratum.name} gives {share:.2%} of {format_amount(planned)} tokens",
        why=f"its {format_amount(held)} tokens, read at most {max_repeats:g} times, give only {format_amount(reached)}",
        fix=advise_dry(stratum, share * reached / planned, planned),
    )
