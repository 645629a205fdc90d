"""Held-out text that is long enough for a measurement. One rule counts it before training and selects it afterwards.

Only text counts, not prompts. Only a few tokens of an instruction are answers, and a good loss on them is near 0, so a
relative change of it in percent means nothing. Prompts are measured as retrieval instead.
"""

import numpy as np
from jaxtyping import Int64

from ropewalk.corpus.tokens.corpus_folder import Corpus
from ropewalk.corpus.tokens.store import StoredDocuments, all_documents


def text_sources(corpus: Corpus) -> list[str]:
    """The sources of general and domain text, in the order of the corpus."""
    return [name for name in corpus.sources if corpus.facts(name).role != "instruction"]


def find_long(corpus: Corpus, source: str, *, context_tokens: int) -> tuple[StoredDocuments, Int64[np.ndarray, "long"]]:
    """The held-out documents of a source, and the indices of those with at least ``context_tokens`` tokens."""
    held = all_documents(corpus.held_out(source))
    return held, np.flatnonzero(held.lengths >= context_tokens)


def count_long(corpus: Corpus, *, context_tokens: int) -> int:
    """The number of held-out documents of text with at least ``context_tokens`` tokens."""
    return sum(len(find_long(corpus, name, context_tokens=context_tokens)[1]) for name in text_sources(corpus))


def count_trained_long(corpus: Corpus, *, context_tokens: int) -> int:
    """The number of documents of text that are trained on and have at least ``context_tokens`` tokens."""
    return sum(int((corpus.train(name).lengths >= context_tokens).sum()) for name in text_sources(corpus))


def tell_long(found: int, asked: int, *, context_tokens: int) -> str:
    """The message for too few held-out documents of the required length."""
    return (
        f"{found} of {asked} held-out documents have {context_tokens} tokens; "
        "for more of them, increase corpus.held_out or add longer text"
    )
