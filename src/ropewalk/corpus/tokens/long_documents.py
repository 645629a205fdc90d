"""How much of a document longer than a sequence is read: all of it in segments, its first sequence, or nothing.

Of a truncated conversation only whole answers are read: an answer without its end teaches the model to stop anywhere,
and a question without its answer trains nothing. The documents concerned depend on the sequence length of a stage, so
this is decided when a dataset is opened. The corpus folder holds all documents.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from ropewalk.corpus.spec import LongDocuments
from ropewalk.corpus.tokens.store import StoredDocuments


@dataclass(frozen=True, slots=True)
class BeyondSequence:
    """Counts for a source: documents left out as longer than a sequence, documents cut short, tokens not read."""

    left_out: int
    cut_short: int
    tokens: int


def find_beyond(documents: StoredDocuments, *, context_tokens: int, long_documents: LongDocuments) -> BeyondSequence:
    """Count the documents and tokens that ``count_read`` leaves out."""
    lengths = documents.lengths
    read = count_read(documents, context_tokens=context_tokens, long_documents=long_documents)
    left_out = int((read == 0).sum())
    return BeyondSequence(left_out, int((read < lengths).sum()) - left_out, int((lengths - read).sum()))


def count_read(
    documents: StoredDocuments, *, context_tokens: int, long_documents: LongDocuments
) -> Int64[np.ndarray, "documents"]:
    """The number of tokens that are read of each document; 0 where a document is left out."""
    lengths = documents.lengths
    if long_documents == "split":
        return lengths
    read = np.asarray(np.minimum(lengths, context_tokens))
    for document in np.flatnonzero(lengths > context_tokens).tolist():
        read[document] = 0 if long_documents == "drop" else _whole_answers(documents, document, context_tokens)
    return read


def _whole_answers(documents: StoredDocuments, document: int, context_tokens: int) -> int:
    """Tokens up to the end of the last answer that fits into a sequence; ``context_tokens`` if no token is masked."""
    _, mask = documents.read(document)
    if mask.all():
        return context_tokens
    trained = mask[: context_tokens + 1].astype(np.int8)
    trained[0] = 0  # a first token is never a label
    ends = np.flatnonzero(np.diff(trained) < 0) + 1
    return int(ends[-1]) if len(ends) else 0
