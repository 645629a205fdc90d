"""What is read of a document that is longer than a row: all of it in pieces, its first row, or nothing.

Of a conversation that is cut short only whole answers are read: an answer without its end teaches to stop anywhere, and
a question without its answer teaches nothing. Which documents these are depends on the length of a stage's rows, so it
is decided when a feed is opened; the corpus folder holds all of them.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from ropewalk.corpus.spec import LongDocuments
from ropewalk.corpus.tokens.store import Documents


@dataclass(frozen=True, slots=True)
class BeyondRow:
    """What is not read of a source because it is beyond a row: documents left out, others cut short, their tokens."""

    left_out: int
    cut_short: int
    tokens: int


def find_beyond(documents: Documents, *, context_tokens: int, long_documents: LongDocuments) -> BeyondRow:
    """What ``count_read`` leaves unread."""
    lengths = documents.lengths
    read = count_read(documents, context_tokens=context_tokens, long_documents=long_documents)
    left_out = int((read == 0).sum())
    return BeyondRow(left_out, int((read < lengths).sum()) - left_out, int((lengths - read).sum()))


def count_read(
    documents: Documents, *, context_tokens: int, long_documents: LongDocuments
) -> Int64[np.ndarray, "documents"]:
    """Tokens of each document that are read; 0 where it is left out."""
    lengths = documents.lengths
    if long_documents == "split":
        return lengths
    read = np.asarray(np.minimum(lengths, context_tokens))
    for document in np.flatnonzero(lengths > context_tokens).tolist():
        read[document] = 0 if long_documents == "drop" else _whole_answers(documents, document, context_tokens)
    return read


def _whole_answers(documents: Documents, document: int, context_tokens: int) -> int:
    """Tokens up to the end of the last answer that ends within a row; a whole row where all is trained on."""
    _, mask = documents.read(document)
    if mask.all():
        return context_tokens
    trained = mask[: context_tokens + 1].astype(np.int8)
    trained[0] = 0  # a first token is never a label
    ends = np.flatnonzero(np.diff(trained) < 0) + 1
    return int(ends[-1]) if len(ends) else 0
