"""Counts the content of a built corpus and the sequences made of it, for a report: plain data, valid as JSON.

The most important figure is the real context of the tokens. In a corpus of web pages, packed into sequences of 128Ki,
hardly any token has 32Ki tokens of its own document before it, whichever length the sequences have.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from jaxtyping import Int64, Integer

from ropewalk.core.seed import stream
from ropewalk.corpus.inspect.sequence_faults import find_sequence_faults
from ropewalk.corpus.mix.dataset import Dataset
from ropewalk.corpus.tokens.corpus_folder import Corpus
from ropewalk.corpus.tokens.store import StoredDocuments
from ropewalk.corpus.tokens.tokenizer import Tokenizer

CONTEXTS = (8192, 32768, 131072)
_SHORTEST_BIT, _LONGEST_BIT = 6, 24
_PREFIXES = 120
_SEQUENCES, _SEGMENTS, _SHOWN_TOKENS = 6, 24, 24


def survey_corpus(
    corpus: Corpus, datasets: Mapping[int, Dataset], *, tokenizer: Tokenizer, seed: int
) -> dict[str, Any]:
    """Ledger, languages, lengths, licences, and for the dataset of every stage its mix, packing and some sequences."""
    lengths = {name: corpus.train(name).lengths for name in corpus.sources}
    faults = {
        stage: [fault.message for fault in find_sequence_faults(corpus, dataset)] for stage, dataset in datasets.items()
    }
    return {
        "digest": corpus.digest,
        "vocabulary": corpus.vocabulary,
        "ledger": dict(corpus.ledger),
        "sources": {name: _describe_source(corpus, name) for name in corpus.sources},
        "lengths": _count_lengths(lengths),
        "context": {name: count_context(found) for name, found in lengths.items()},
        "stages": [
            {
                "stage": stage,
                **survey_dataset(dataset),
                "faults": faults[stage],
                "sequences_shown": _show_sequences(corpus, dataset, tokenizer, seed),
            }
            for stage, dataset in datasets.items()
        ],
    }


def survey_dataset(dataset: Dataset) -> dict[str, Any]:
    """Plan and result of a dataset, over all its sequences and over prefixes of them."""
    cursors = np.unique(np.linspace(0, dataset.sequences, _PREFIXES + 1).round().astype(int))[1:].tolist()
    realised = [dataset.realised(cursor) for cursor in cursors]
    segments = dataset.segment_tokens()
    return {
        "context_tokens": dataset.context_tokens,
        "sequences": dataset.sequences,
        "tokens": int(segments.sum()),
        "padding_tokens": dataset.padding_tokens,
        "beyond_sequence": {name: asdict(beyond) for name, beyond in dataset.beyond_sequence.items()},
        "planned": dict(dataset.planned),
        "realised": dataset.realised(dataset.sequences),
        "repeats": dataset.repeats,
        "strata": [asdict(use) for use in dataset.strata],
        "segments": len(segments),
        "context": count_context(segments),
        "unlabelled": {name: list(counts) for name, counts in dataset.unlabelled.items()},
        "most_sequences_off": dataset.most_sequences_off,
        "prefixes": {
            "sequences": cursors,
            "tokens": {name: [each[name] for each in realised] for name in dataset.sources},
        },
    }


def count_context(lengths: Int64[np.ndarray, "documents"]) -> dict[str, int]:
    """Number of all tokens, and of tokens with at least 8Ki, 32Ki or 128Ki tokens of their document before them."""
    over = {str(context): int(np.maximum(lengths - context, 0).sum()) for context in CONTEXTS}
    return {"tokens": int(lengths.sum()), **over}


def _describe_source(corpus: Corpus, name: str) -> dict[str, Any]:
    facts = corpus.facts(name)
    names, language = corpus.languages(name)
    tokens = np.bincount(language, weights=corpus.train(name).lengths, minlength=len(names)).astype(int)
    documents = np.bincount(language, minlength=len(names))
    return {
        "role": facts.role,
        "license": facts.license,
        "documents": facts.documents,
        "tokens": facts.tokens,
        "held_out_documents": facts.held_out_documents,
        "held_out_tokens": facts.held_out_tokens,
        "languages": {
            label: {"documents": int(documents[at]), "tokens": int(tokens[at])}
            for at, label in enumerate(names)
            if documents[at]
        },
    }


def _count_lengths(lengths: Mapping[str, Int64[np.ndarray, "documents"]]) -> dict[str, Any]:
    """Documents and tokens of every source by document length, in powers of two."""
    edges = [0, *(1 << bit for bit in range(_SHORTEST_BIT, _LONGEST_BIT))]
    counted = {}
    for name, found in lengths.items():
        bucket = np.searchsorted(edges, found, side="right") - 1
        counted[name] = {
            "documents": np.bincount(bucket, minlength=len(edges)).tolist(),
            "tokens": np.bincount(bucket, weights=found, minlength=len(edges)).astype(int).tolist(),
        }
    return {"from_tokens": edges, "sources": counted}


def _show_sequences(corpus: Corpus, dataset: Dataset, tokenizer: Tokenizer, seed: int) -> list[dict[str, Any]]:
    """A few random sequences, with the text at the borders of their documents."""
    random = stream("rows shown", dataset.digest, seed)
    chosen = sorted(random.choice(dataset.sequences, size=min(_SEQUENCES, dataset.sequences), replace=False).tolist())
    wanted: dict[str, set[int]] = {}
    for sequence in chosen:
        segments = dataset.describe_sequence(sequence)[:_SEGMENTS]
        wanted.setdefault(dataset.source_of(sequence), set()).update(_stored_number(*each) for each in segments)
    ids = {source: corpus.ids(source, numbers) for source, numbers in wanted.items()}  # each file is read once
    return [_show_sequence(dataset, sequence, ids[dataset.source_of(sequence)], tokenizer) for sequence in chosen]


def _stored_number(documents: StoredDocuments, document: int, start: int, tokens: int) -> int:
    """The number of the document of a segment in its source's store."""
    return int(documents.chosen[document])


def _show_sequence(dataset: Dataset, sequence: int, ids: Mapping[int, str], tokenizer: Tokenizer) -> dict[str, Any]:
    segments, source = dataset.describe_sequence(sequence), dataset.source_of(sequence)
    shown = []
    for segment in segments[:_SEGMENTS]:
        (documents, document, start, tokens), number = segment, _stored_number(*segment)
        read, _ = documents.read(document, start, start + tokens)
        begin, end = _show_ends(read, tokenizer)
        of = int(documents.lengths[document])
        shown.append({"id": ids[number], "start": start, "tokens": tokens, "of": of, "begins": begin, "ends": end})
    lengths = [tokens for *_, tokens in segments]
    return {"sequence": sequence, "source": source, "lengths": lengths, "segments": shown}


def _show_ends(tokens: Sequence[int] | Integer[np.ndarray, "tokens"], tokenizer: Tokenizer) -> tuple[str, str]:
    """The first and the last words of a segment. A short segment is all in the first part, and the second is empty."""
    if len(tokens) <= 2 * _SHOWN_TOKENS:
        return show_words(tokens, tokenizer), ""
    return show_words(tokens[:_SHOWN_TOKENS], tokenizer), show_words(tokens[-_SHOWN_TOKENS:], tokenizer)


def show_words(tokens: Sequence[int] | Integer[np.ndarray, "tokens"], tokenizer: Tokenizer) -> str:
    """Tokens as one line of text, without incomplete characters at its ends."""
    return " ".join(tokenizer.decode(tokens).strip("\ufffd").split())
