"""Held-out text that is long enough to be measured on: counted before training, drawn after it, by one rule.

Only text counts, not prompts: of an instruction's tokens a few are answers, and their loss is near 0 where it is good,
so a change of it in percent says nothing. What prompts ask for is measured as retrieval.
"""

import numpy as np
from jaxtyping import Int64

from ropewalk.corpus.tokens.corpus_folder import Corpus
from ropewalk.corpus.tokens.store import Documents, all_documents


def text_sources(corpus: Corpus) -> list[str]:
    """The sources of general and domain text, in the corpus's order."""
    return [name for name in corpus.sources if corpus.facts(name).role != "instruction"]


def find_long(corpus: Corpus, source: str, *, context_tokens: int) -> tuple[Documents, Int64[np.ndarray, "long"]]:
    """The held-out documents of a source, and the numbers of those that have ``context_tokens`` tokens."""
    held = all_documents(corpus.held_out(source))
    return held, np.flatnonzero(held.lengths >= context_tokens)


def count_long(corpus: Corpus, *, context_tokens: int) -> int:
    """How many held-out documents of all text have ``context_tokens`` tokens."""
    return sum(len(find_long(corpus, name, context_tokens=context_tokens)[1]) for name in text_sources(corpus))


def tell_long(found: int, asked: int, *, context_tokens: int) -> str:
    """What is said where fewer documents are long enough than a measurement asks for."""
    return (
        f"{found} of {asked} held-out documents have {context_tokens} tokens; "
        "a larger corpus.held_out, or longer text, gives more"
    )
