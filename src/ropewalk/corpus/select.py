"""Which of the stored documents are trained on, which are held out, and which are dropped as copies of others.

Copies are found across all sources at once. Of a group of copies one stays: an instruction before domain text before
general text, then the longest. Held-out documents are chosen among groups, not documents, so that none of them nearly
equals one that is trained on, whether copies are dropped or kept.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Int8, Int64, UInt32, UInt64

from ropewalk.core.record import Role
from ropewalk.core.seed import seed_for
from ropewalk.corpus.dedup import group_similar
from ropewalk.corpus.tokenized import Tokenized

TRAIN, HELD_OUT, EXACT, NEAR = 0, 1, 2, 3
REASONS = {EXACT: "exact duplicate", NEAR: "near duplicate"}
_PRIORITY: dict[Role, int] = {"instruction": 0, "domain": 1, "general": 2}
_SIMILAR = 0.8
_FEWEST, _MOST_OF_FEW = 8, 0.1


def select_documents(
    sources: Sequence[Tokenized], roles: Sequence[Role], *, near_duplicates: float | None, held_out: float
) -> list[Int8[np.ndarray, "_"]]:
    """A fate for each document of each source: TRAIN, HELD_OUT, EXACT or NEAR.

    ``near_duplicates`` is the similarity from which copies are dropped; None keeps all but exact ones. ``held_out`` is
    the share of each source's documents, at least 8 of them or a tenth of what there is.
    """
    digests = np.concatenate([source.digests for source in sources])
    signatures = np.concatenate([source.signatures for source in sources])
    rank = _rank_documents(sources, roles)
    exact = _group_equal(digests)
    leak = _group_copies(exact, signatures, min(near_duplicates or _SIMILAR, _SIMILAR))
    near = exact
    if near_duplicates is not None:
        near = leak if near_duplicates <= _SIMILAR else _group_copies(exact, signatures, near_duplicates)
    fate = np.full(len(digests), TRAIN, dtype=np.int8)
    fate[~_are_best(near, rank)] = NEAR
    fate[~_are_best(exact, rank)] = EXACT

    key = np.array([seed_for("held out", int(digest)) for digest in digests], dtype=np.uint64)[leak]
    chosen = np.zeros(len(fate), dtype=bool)
    borders = np.cumsum([0, *(len(source.digests) for source in sources)])
    for first, last in pairwise(borders.tolist()):
        kept = fate[first:last] == TRAIN
        chosen[first:last] = kept & (key[first:last] < _held_out_key(key[first:last][kept], held_out))
    fate[(fate == TRAIN) & np.isin(leak, leak[chosen])] = HELD_OUT
    return np.split(fate, borders[1:-1])


def _rank_documents(sources: Sequence[Tokenized], roles: Sequence[Role]) -> Int64[np.ndarray, "documents"]:
    """Each document's place in the order in which copies are kept."""
    tokens = np.concatenate([source.tokens for source in sources])
    priority = np.repeat([_PRIORITY[role] for role in roles], [len(source.tokens) for source in sources])
    rank = np.empty(len(tokens), dtype=np.int64)
    rank[np.lexsort((-tokens, priority))] = np.arange(len(tokens))
    return rank


def _group_equal(digests: UInt64[np.ndarray, "documents"]) -> Int64[np.ndarray, "documents"]:
    """For each document the first one with the same text."""
    _, first, inverse = np.unique(digests, return_index=True, return_inverse=True)
    return np.asarray(first[inverse], dtype=np.int64)


def _group_copies(
    exact: Int64[np.ndarray, "documents"], signatures: UInt32[np.ndarray, "documents 128"], threshold: float
) -> Int64[np.ndarray, "documents"]:
    """For each document the first one of its group of near copies; equal texts are compared once."""
    firsts, inverse = np.unique(exact, return_inverse=True)
    return np.asarray(firsts[group_similar(signatures[firsts], threshold=threshold)][inverse], dtype=np.int64)


def _are_best(
    group: Int64[np.ndarray, "documents"], rank: Int64[np.ndarray, "documents"]
) -> Bool[np.ndarray, "documents"]:
    best = np.full(len(group), len(group), dtype=np.int64)
    np.minimum.at(best, group, rank)
    return np.asarray(rank == best[group])


def _held_out_key(keys: UInt64[np.ndarray, "documents"], share: float) -> int:
    """The key from which a source's documents are trained on; those below are held out."""
    count = max(round(share * len(keys)), min(_FEWEST, int(_MOST_OF_FEW * len(keys)))) if share else 0
    return int(np.sort(keys)[count]) if count else 0
