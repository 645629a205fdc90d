"""The choice of held-out text: a draw that depends only on the corpus and the seed, so all models read the same text.

corpus/mix/held_out_text.py defines which text may be drawn; it is counted there before training.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Int64

from ropewalk.core.seed import stream
from ropewalk.corpus.mix.held_out_text import find_long
from ropewalk.corpus.mix.held_out_text import text_sources as text_sources
from ropewalk.corpus.tokens.corpus_folder import Corpus
from ropewalk.corpus.tokens.store import StoredDocuments, all_documents


def draw_long(
    corpus: Corpus, *, context_tokens: int, documents: int, seed: int
) -> list[Int64[np.ndarray, "context_tokens"]]:
    """The first ``context_tokens`` tokens of up to ``documents`` held-out documents that are long enough.

    Sources take turns, so a source with many documents does not displace another one.
    """
    lengths = {"context_tokens": context_tokens, "documents": documents}
    return [tokens for _, tokens in draw_long_by_source(corpus, **lengths, seed=seed)]


def draw_long_by_source(
    corpus: Corpus, *, context_tokens: int, documents: int, seed: int
) -> list[tuple[str, Int64[np.ndarray, "context_tokens"]]]:
    """The same documents, each with the name of its source."""
    queues = []
    for name in text_sources(corpus):
        held, long = find_long(corpus, name, context_tokens=context_tokens)
        order = stream("evaluate", "long", corpus.digest, name, seed).permutation(long)
        queues.append([(name, held, int(number)) for number in order])
    turns = [queue[turn] for turn in range(max(map(len, queues), default=0)) for queue in queues if turn < len(queue)]
    return [
        (name, held.read(number, 0, context_tokens)[0].astype(np.int64)) for name, held, number in turns[:documents]
    ]


def draw_short(
    corpus: Corpus, source: str, *, context_tokens: int, tokens: int, seed: int
) -> Iterator[tuple[int, Int64[np.ndarray, "piece"]]]:
    """``(document, piece)`` of at most ``context_tokens`` tokens each, until ``tokens`` are drawn or all is read.

    Documents are cut as for training at that length; the first segment of every document comes before any second
    segment.
    """
    held = all_documents(corpus.held_out(source))
    order = stream("evaluate", "short", corpus.digest, source, seed).permutation(len(held))
    drawn = 0
    for document, piece in _pieces(held, order.astype(np.int64), context_tokens):
        if drawn >= tokens:
            return
        drawn += len(piece)
        yield document, piece


def _pieces(
    held: StoredDocuments, order: Int64[np.ndarray, "documents"], context_tokens: int
) -> Iterator[tuple[int, Int64[np.ndarray, "piece"]]]:
    lengths = held.lengths
    for start in range(0, int(lengths.max(initial=0)), context_tokens):
        for document in order[lengths[order] > start + 1].tolist():  # a single token has no label
            stop = min(start + context_tokens, int(lengths[document]))
            yield document, held.read(document, start, stop)[0].astype(np.int64)
