"""The zigzag layout per document: 2 x ranks chunks, and rank r owns the r-th from the front and the r-th from the back.

Each such pair of chunks has the same number of causal pairs, so every single document is balanced. A length need not
be a multiple of 2 x ranks: the remaining tokens are given to the ranks in turn from document to document, so nothing
is padded.
"""

import numpy as np
from jaxtyping import Int64

from ropewalk.partition.segments import Ownership, PackedDocuments
from ropewalk.partition.token_ranges import TokenRanges


def own_zigzag(documents: PackedDocuments, ranks: int) -> Ownership:
    """Cut every document, padding too, into 2 x ``ranks`` chunks."""
    chunks, owner = cut_zigzag(documents.ranges, ranks)
    return Ownership(chunks.start, owner)


def cut_zigzag(
    documents: TokenRanges, ranks: int, *, grain_tokens: int = 1
) -> tuple[TokenRanges, Int64[np.ndarray, "chunks"]]:
    """The non-empty chunks and their owners, in packed order; ranks' totals differ by at most one token.

    Cuts are at multiples of ``grain_tokens`` in a document; with more than 1 the totals differ by more.
    """
    chunks = 2 * ranks
    base, left = np.divmod(documents.length // grain_tokens, chunks)
    given = (np.cumsum(left) - left) % ranks
    # Of the tokens left over, rank r gets one for each full round and one if the last round reaches it.
    turn = (np.arange(ranks) - given[:, None]) % ranks
    extra = left[:, None] // ranks + (turn < left[:, None] % ranks)
    size = np.repeat(base[:, None], chunks, axis=1)
    size[:, :ranks] += extra > 1
    size[:, ranks:] += extra[:, ::-1] > 0
    size *= grain_tokens
    size[:, -1] += documents.length % grain_tokens
    stop = documents.start[:, None] + np.cumsum(size, axis=1)
    rank = np.arange(ranks)
    owner = np.broadcast_to(np.concatenate([rank, rank[::-1]]), size.shape)
    filled = size > 0
    return TokenRanges((stop - size)[filled], stop[filled]), owner[filled]
