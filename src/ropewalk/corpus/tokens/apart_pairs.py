"""Between which neighbouring characters of Han no merge of a byte-level vocabulary can cross.

BPE joins two neighbours only where the result is in the vocabulary. So if no token of the vocabulary holds the end of
one character and the beginning of the next, a run of Han has the ids of its parts on both sides of that place. The
parts are short (about two characters) and return often, where whole runs, which are clauses, are mostly new.

A token may begin or end within a character. Such a token counts for all characters that end or begin with its bytes.
Pairs are kept in a table by a hash: a collision only keeps two characters together, which changes no id.
"""

from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, UInt32, UInt64

HAN = ((0x3400, 0x4DBF), (0x4E00, 0x9FFF))
"""Letters of Han in the basic plane. The hexagrams between the two blocks are signs."""
_FIRST, _LAST = HAN[0][0], HAN[-1][1]
_TABLE_BITS = 22
_FACTOR = np.uint32(0x9E3779B1)
_GROUPS = 64
"""Tokens that hold a part of a character, by this many bits. With more of them, several share a bit: more is kept."""


def byte_of_sign() -> dict[str, int]:
    """The byte for which each character stands in a byte-level vocabulary (GPT-2): printable ones for themselves."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


class ApartPairs:
    """The pairs of Han that a vocabulary may join. Tokens that are no byte-level text come from no merge."""

    def __init__(self, vocabulary: Iterable[str]) -> None:
        signs = byte_of_sign()
        texts = (bytes(map(signs.__getitem__, token)) for token in vocabulary if all(sign in signs for sign in token))
        whole: list[tuple[int, int]] = []
        parts: dict[tuple[bytes, bytes], int] = {}
        for before, after in {pair for text in texts if not text.isascii() for pair in _neighbours(text)}:
            if len(before) == len(after) == 3 and before[0] >> 4 == after[0] >> 4 == 0xE:
                whole.append((ord(before.decode("utf-8", "replace")[0]), ord(after.decode("utf-8", "replace")[0])))
            elif _may_end_han(before) and _may_begin_han(after):
                parts[before, after] = len(parts) % _GROUPS
        self._joined = np.zeros(1 << _TABLE_BITS, dtype=bool)
        pairs = np.array(whole, dtype=np.uint32).reshape(-1, 2)
        self._joined[_hash(pairs[:, 0], pairs[:, 1])] = True
        self._before, self._after = _mark_parts(parts)

    def find_cuts(self, points: UInt32[np.ndarray, "characters"]) -> Bool[np.ndarray, "characters"]:
        """Whether the text may be cut before each character: both neighbours are Han, and no token holds the place."""
        cuts = np.zeros(len(points), dtype=bool)
        is_han = ((points >= _FIRST) & (points <= HAN[0][1])) | ((points >= HAN[1][0]) & (points <= _LAST))
        at = np.flatnonzero(is_han[1:] & is_han[:-1]) + 1
        first, second = points[at - 1], points[at]
        joined = self._joined[_hash(first, second)]
        joined |= (self._before[first - np.uint32(_FIRST)] & self._after[second - np.uint32(_FIRST)]) != 0
        cuts[at] = ~joined
        return cuts


@lru_cache(maxsize=2)
def find_apart_pairs(vocabulary: tuple[str, ...]) -> ApartPairs:
    """The pairs of a vocabulary, made once in a process: a second for 65,000 tokens, and each source asks again."""
    return ApartPairs(vocabulary)


def _neighbours(text: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The bytes before and after each border between two characters, as far as ``text`` holds these characters."""
    starts = [at for at, byte in enumerate(text) if byte & 0xC0 != 0x80]
    borders = sorted({0, *starts, len(text)})
    for (first, border), (_, end) in pairwise(pairwise(borders)):
        yield text[first:border], text[border:end]


def _may_end_han(text: bytes) -> bool:
    """Whether a character of Han (three bytes) may end with ``text``, which has no border inside."""
    return len(text) <= 3 and text[-1] >> 6 == 0b10 and (text[0] >> 6 == 0b10 or text[0] >> 4 == 0xE)


def _may_begin_han(text: bytes) -> bool:
    """Whether a character of Han may begin with ``text``, which has no border inside."""
    return len(text) <= 3 and text[0] >> 4 == 0xE


def _hash(first: UInt32[np.ndarray, "pairs"], second: UInt32[np.ndarray, "pairs"]) -> UInt32[np.ndarray, "pairs"]:
    hashed: UInt32[np.ndarray, pairs] = ((first << np.uint32(16)) ^ second) * _FACTOR >> np.uint32(32 - _TABLE_BITS)
    return hashed


def _mark_parts(
    parts: dict[tuple[bytes, bytes], int],
) -> tuple[UInt64[np.ndarray, "characters"], UInt64[np.ndarray, "characters"]]:
    """For each character from the first to the last of Han a bit for each token that may end, or begin, with it."""
    codes = np.arange(_FIRST, _LAST + 1, dtype=np.uint32)
    encoded = (0xE0 | codes >> 12) << 16 | (0x80 | codes >> 6 & 0x3F) << 8 | 0x80 | codes & 0x3F  # three bytes of UTF-8
    before, after = np.zeros(len(codes), dtype=np.uint64), np.zeros(len(codes), dtype=np.uint64)
    for (head, tail), bit in parts.items():
        ends = encoded & (1 << 8 * len(head)) - 1 == int.from_bytes(head, "big")
        begins = encoded >> 24 - 8 * len(tail) == int.from_bytes(tail, "big")
        before[ends] |= np.uint64(1 << bit)
        after[begins] |= np.uint64(1 << bit)
    return before, after
