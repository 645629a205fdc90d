"""Near-duplicates by MinHash: 128 numbers a document, found in bands, verified, joined into groups.

A signature is the minimum of 128 random functions over a document's 5-word shingles (5 characters in Han), and the
share in which two signatures agree estimates their Jaccard similarity to within 0.035. All in numpy.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Int64, UInt32

from ropewalk.core.seed import stream
from ropewalk.corpus.language import blocks
from ropewalk.corpus.shingle import mix_bits, shingles, word_hashes

SIGNATURE = 128
_WIDTH = 5
_BLOCK = 4096
_MISSED = 0.01
_RANDOM = stream("minhash")
_FACTORS = _RANDOM.integers(0, 1 << 63, size=(SIGNATURE, 1), dtype=np.uint64) * np.uint64(2) + np.uint64(1)
_OFFSETS = _RANDOM.integers(0, 1 << 63, size=(SIGNATURE, 1), dtype=np.uint64)


def sign(text: str) -> UInt32[np.ndarray, "128"]:
    """The MinHash signature of a text; of one without a word, that of the empty set."""
    least = np.full(SIGNATURE, np.iinfo(np.uint64).max, dtype=np.uint64)
    for block in blocks(text):
        found = np.unique(shingles(word_hashes(block), _WIDTH))
        for start in range(0, len(found), _BLOCK):
            # Multiply-shift: the high half of an odd multiple is close to a random permutation of 64-bit keys.
            hashed = _FACTORS * found[None, start : start + _BLOCK] + _OFFSETS
            least = np.minimum(least, hashed.min(axis=1))
    return (least >> np.uint64(32)).astype(np.uint32)


def group_similar(
    signatures: UInt32[np.ndarray, "documents 128"], *, threshold: float
) -> Int64[np.ndarray, "documents"]:
    """A group number for each document: documents similar from ``threshold`` up share one, also by way of others.

    The number is that of the group's first document. Fewer than 1 % of pairs right at the threshold are missed.
    """
    parent = np.arange(len(signatures))
    for members in _find_candidates(signatures, _band_rows(threshold)):
        leaders: list[int] = []
        for member in members.tolist():
            root = _find_root(parent, member)
            for leader in leaders:
                other = _find_root(parent, leader)
                if root == other:
                    break
                if np.mean(signatures[member] == signatures[leader]) >= threshold:
                    parent[max(root, other)] = min(root, other)
                    break
            else:
                leaders.append(member)
    return np.array([_find_root(parent, index) for index in range(len(parent))], dtype=np.int64)


def _band_rows(threshold: float) -> int:
    """Rows of a band: as many as still find 99 % of the pairs at the threshold."""
    rows = [r for r in range(1, SIGNATURE + 1) if (1 - threshold**r) ** (SIGNATURE // r) <= _MISSED]
    return max(rows, default=1)


def _find_candidates(
    signatures: UInt32[np.ndarray, "documents 128"], band_rows: int
) -> Iterator[Int64[np.ndarray, "members"]]:
    """Documents that agree in all rows of one band, group by group, band by band."""
    for start in range(0, SIGNATURE - band_rows + 1, band_rows):
        keys = np.zeros(len(signatures), dtype=np.uint64)
        for row in range(start, start + band_rows):
            keys = mix_bits(keys + signatures[:, row] + np.uint64(1))
        order = np.argsort(keys, kind="stable")
        borders = np.flatnonzero(np.diff(keys[order])) + 1
        firsts, lasts = np.concatenate([[0], borders]), np.concatenate([borders, [len(order)]])
        for first, last in zip(firsts, lasts, strict=True):
            if last - first > 1:
                yield order[first:last]


def _find_root(parent: Int64[np.ndarray, "documents"], index: int) -> int:
    root = index
    while parent[root] != root:
        root = int(parent[root])
    while parent[index] != root:
        parent[index], index = root, int(parent[index])
    return root
