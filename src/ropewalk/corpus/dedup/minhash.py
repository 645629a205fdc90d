"""Finds near-duplicates by MinHash: 128 numbers per document, candidates by bands, verified and joined into groups.

A signature is computed over a document's 5-word shingles (5 characters in Han). The share of numbers in which two
signatures agree estimates their Jaccard similarity to within 0.035. Every shingle is hashed once, not 128 times: the
first 7 bits of the hash select which of the 128 numbers it may lower. Numbers that stay empty are filled by hashing
again (Dahlgaard, Knudsen and Thorup 2017).
"""

from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Int64, UInt32, UInt64

from ropewalk.core.seed import stream
from ropewalk.corpus.text.language import blocks
from ropewalk.corpus.text.shingle import mix_bits, shingles, sort_unique, word_hashes

SIGNATURE = 128
FEWEST_WORDS = 32
"""Answers with fewer words ("Yes.", a class, a number) are alike under many questions, and so are no sign of a copy."""
SHINGLE_WORDS = 5
_MISSED = 0.01
_BIN_BITS = np.uint64(7)
BIN_SHIFT = np.uint64(64 - 7)
EMPTY = np.uint64(2**64 - 1)
_BINS = np.arange(SIGNATURE, dtype=np.uint64)
_ROUNDS = 1 << 14
ROUND_KEYS = stream("minhash").integers(0, 1 << 63, size=(_ROUNDS, 1), dtype=np.uint64)
_BATCH = 1024


def sign(text: str) -> UInt32[np.ndarray, "128"]:
    """The MinHash signature of a text. A text without words has the signature of the empty set."""
    least = np.full(SIGNATURE, EMPTY)
    few = [np.empty(0, dtype=np.uint64)]
    for block in blocks(text):
        keys = np.sort(shingles(word_hashes(block), SHINGLE_WORDS))
        least = np.minimum(least, _first_of_bins(keys))
        if (least == EMPTY).any():  # then there are few shingles, and the list holds all so far
            few.append(sort_unique(keys))
    if (least == EMPTY).any() and sum(map(len, few)):
        _fill_empty(least, sort_unique(np.concatenate(few)))
    return shorten_numbers(least)


def sign_answers(answers: str, digest: int) -> UInt32[np.ndarray, "128"]:
    """The signature of a conversation's answers, because many conversations share a document or a system prompt.

    Where the answers are short, it is the signature of ``digest``, a number for the whole text. Then only the same text
    is similar.
    """
    if len(word_hashes(next(blocks(answers), ""))) >= FEWEST_WORDS:
        return sign(answers)
    least = np.full(SIGNATURE, EMPTY)
    _fill_empty(least, mix_bits(np.array([digest], dtype=np.uint64)))
    return shorten_numbers(least)


def shorten_numbers(least: UInt64[np.ndarray, "*any"]) -> UInt32[np.ndarray, "*any"]:
    """The first 32 bits of each number after the 7 bits that select one of the 128 numbers."""
    return ((least << _BIN_BITS) >> np.uint64(32)).astype(np.uint32)


def _first_of_bins(keys: UInt64[np.ndarray, "shingles"]) -> UInt64[np.ndarray, "128"]:
    """The least of the sorted keys in each of 128 equal parts of their range."""
    if len(keys) == 0:
        return np.full(SIGNATURE, EMPTY)
    found = keys[np.minimum(np.searchsorted(keys, _BINS << BIN_SHIFT), len(keys) - 1)]
    return np.where(found >> BIN_SHIFT == _BINS, found, EMPTY)


def _fill_empty(least: UInt64[np.ndarray, "128"], keys: UInt64[np.ndarray, "shingles"]) -> None:
    """Hash again, round by round, until every number has a shingle. An earlier round takes precedence."""
    rounds = -(-_BATCH // len(keys))
    for start in range(0, _ROUNDS, rounds):
        hashed = np.sort(mix_bits(keys + ROUND_KEYS[start : start + rounds]), axis=1)
        # Write from the last round and largest key to the first round and least key, because the last write stays.
        order = hashed[::-1, ::-1].ravel()
        filled = np.full(SIGNATURE, EMPTY)
        filled[order >> BIN_SHIFT] = order
        empty = least == EMPTY
        least[empty] = filled[empty]
        if not (least == EMPTY).any():
            return


def group_similar(
    signatures: UInt32[np.ndarray, "documents 128"], *, threshold: float
) -> Int64[np.ndarray, "documents"]:
    """A group number for each document. Documents with a similarity of ``threshold`` or more share a group, directly or
    through other documents.

    The number is the index of the group's first document. Fewer than 1 % of the pairs exactly at the threshold are
    missed. copies_on_disk.py makes the same groups of documents that memory cannot hold.
    """
    parent = np.arange(len(signatures))
    for keys in band_keys(signatures, count_band_rows(threshold)):
        for members in find_candidates(keys):
            join_candidates(members, parent, lambda index: signatures[index], threshold)
    return np.array([find_root(parent, index) for index in range(len(parent))], dtype=np.int64)


def count_band_rows(threshold: float) -> int:
    """Rows of a band: the largest number that still finds 99 % of the pairs at the threshold."""
    rows = [r for r in range(1, SIGNATURE + 1) if (1 - threshold**r) ** (SIGNATURE // r) <= _MISSED]
    return max(rows, default=1)


def band_keys(
    signatures: UInt32[np.ndarray, "documents 128"], band_rows: int
) -> Iterator[UInt64[np.ndarray, "documents"]]:
    """Yield for each band a key of each document. Documents that agree in all rows of the band have the same key."""
    for start in range(0, SIGNATURE - band_rows + 1, band_rows):
        keys = np.zeros(len(signatures), dtype=np.uint64)
        for row in range(start, start + band_rows):
            keys = mix_bits(keys + signatures[:, row] + np.uint64(1))
        yield keys


def find_candidates(keys: UInt64[np.ndarray, "documents"]) -> Iterator[Int64[np.ndarray, "members"]]:
    """Yield the indices of each key that several documents have, by the keys' order."""
    order = np.argsort(keys, kind="stable")
    borders = np.flatnonzero(np.diff(keys[order])) + 1
    firsts, lasts = np.concatenate([[0], borders]), np.concatenate([borders, [len(order)]])
    several = lasts - firsts > 1
    for first, last in zip(firsts[several].tolist(), lasts[several].tolist(), strict=True):
        yield order[first:last]


def join_candidates(
    members: Int64[np.ndarray, "members"],
    parent: Int64[np.ndarray, "documents"],
    read: Callable[[int], UInt32[np.ndarray, "128"]],
    threshold: float,
) -> None:
    """Join those of ``members`` in ``parent`` whose signatures are similar. ``read`` gives a document's signature.

    A signature is read only where it decides: most copies are joined by the first band that they share.
    """
    leaders: list[int] = []
    known: dict[int, UInt32[np.ndarray, 128]] = {}

    def signature(index: int) -> UInt32[np.ndarray, "128"]:
        if index not in known:
            known[index] = read(index)
        return known[index]

    for member in members.tolist():
        root = find_root(parent, member)
        for leader in leaders:
            other = find_root(parent, leader)
            if root == other:
                break
            if np.count_nonzero(signature(member) == signature(leader)) >= threshold * SIGNATURE:
                parent[max(root, other)] = min(root, other)
                break
        else:
            leaders.append(member)
            continue
        known.pop(member, None)


def find_root(parent: Int64[np.ndarray, "documents"], index: int) -> int:
    """The first document of the group of ``index``. Shortens the way to it for the next call."""
    root = index
    while parent[root] != root:
        root = int(parent[root])
    while parent[index] != root:
        parent[index], index = root, int(parent[index])
    return root
