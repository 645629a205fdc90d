"""Runs of words as 64-bit numbers, by whole arrays: what near-duplicates, repetition and contamination are found with.

A word is a run of letters and digits; in Han and kana every character is one, since nothing parts their words. Hashes
are polynomials over code points, all windows at once from one running sum: the factor is odd and so can be divided by,
modulo 2**64. Narrower keys would cost ten times the error (measured at 32 bits).
"""

from functools import cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int64, Integer, UInt32, UInt64

from ropewalk.corpus.text.language import code_points, table_of

_FACTOR = 0x9E3779B97F4A7C15
_INVERSE = pow(_FACTOR, -1, 1 << 64)
_KEPT_POWERS = (1 << 20) + (1 << 12)  # of a block, with what it shares with the next one
# First code point of each run; True where its characters belong to words, and where each of them is one.
_RUNS: tuple[tuple[int, bool, bool], ...] = (
    (0x0, False, False), (0x30, True, False), (0x3A, False, False), (0x41, True, False), (0x5B, False, False),
    (0x61, True, False), (0x7B, False, False), (0xC0, True, False), (0x2000, False, False), (0x2C00, True, False),
    (0x2E00, False, False), (0x3041, True, True), (0x3100, True, False), (0x3200, False, False), (0x3400, True, True),
    (0xA000, True, False), (0xE000, False, False), (0xF900, True, True), (0xFB00, True, False), (0xFE10, False, False),
    (0xFE70, True, False), (0xFEFF, False, False), (0xFF10, True, False), (0xFF1A, False, False), (0xFF21, True, False),
    (0xFF3B, False, False), (0xFF41, True, False), (0xFF5B, False, False), (0xFF66, True, False),
    (0xFFE0, False, False), (0x10000, True, False), (0x1F000, False, False), (0x20000, True, True),
    (0x32000, False, False),
)  # fmt: skip
_IN_WORD = 1
_STARTS = tuple(start for start, _, _ in _RUNS)
_KINDS = tuple(int(inside) + 2 * int(alone) for _, inside, alone in _RUNS)


class Words(NamedTuple):
    """The words of a text: a number for each, the characters from and to which it stands, and if it is one by itself,
    as every character of Han and kana is."""

    hashes: UInt64[np.ndarray, "words"]
    start: Int64[np.ndarray, "words"]
    end: Int64[np.ndarray, "words"]
    alone: Bool[np.ndarray, "words"]


def word_hashes(text: str) -> UInt64[np.ndarray, "words"]:
    """A number for each word of ``text``, in order, whatever its case."""
    return _find_words(text.lower()).hashes


def find_words(text: str) -> Words:
    """The words of ``text`` with their places, whatever their case."""
    lowered = text.lower()
    if len(lowered) != len(text):  # the dotted capital I alone becomes two characters
        lowered = text.replace("\u0130", "i").lower()
    return _find_words(lowered)


def _find_words(text: str) -> Words:
    points = code_points(text)
    kinds = table_of(_STARTS, _KINDS).take(points)
    # A word begins where something else than its own kind stood before, and at every letter that is a word by itself.
    begins = kinds > 0
    begins[1:] &= (kinds[1:] != kinds[:-1]) | (kinds[1:] > _IN_WORD)
    start = np.flatnonzero(begins)
    ends = kinds > 0
    ends[:-1] &= begins[1:] | (kinds[1:] == 0)
    end = np.flatnonzero(ends) + 1
    return Words(window_hashes(points, start, end), start, end, kinds[start] > _IN_WORD)


def shingles(words: UInt64[np.ndarray, "words"], width: int) -> UInt64[np.ndarray, "shingles"]:
    """A number for each run of ``width`` words; one for all of them where there are fewer, none where there is none."""
    width = min(width, len(words))
    if width == 0:
        return words
    start = np.arange(len(words) - width + 1)
    return window_hashes(words, start, start + width)


def character_runs(text: str, width: int) -> UInt64[np.ndarray, "runs"]:
    """A number for each run of ``width`` characters of ``text``; none where it is shorter."""
    points = code_points(text)
    start = np.arange(max(0, len(points) - width + 1))
    return window_hashes(points, start, start + width)


def mix_bits(values: UInt64[np.ndarray, "*any"]) -> UInt64[np.ndarray, "*any"]:
    """Spread every input bit over all 64 (the finaliser of splitmix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: UInt64[np.ndarray, "*any"] = values ^ (values >> np.uint64(31))
    return mixed


def window_hashes(
    values: UInt32[np.ndarray, "values"] | UInt64[np.ndarray, "values"],
    start: Integer[np.ndarray, "windows"],
    end: Integer[np.ndarray, "windows"],
) -> UInt64[np.ndarray, "windows"]:
    """Hash of ``values[start:end]`` for each window: sum of value x FACTOR**(position in the window)."""
    powers = _powers(_FACTOR, len(values) + 1)
    running = np.concatenate([np.zeros(1, dtype=np.uint64), np.cumsum((values + np.uint64(1)) * powers[:-1])])
    return mix_bits((running[end] - running[start]) * _powers(_INVERSE, len(values) + 1)[start])


def _powers(factor: int, count: int) -> UInt64[np.ndarray, "count"]:
    return _kept_powers(factor)[:count] if count <= _KEPT_POWERS else _make_powers(factor, count)


@cache
def _kept_powers(factor: int) -> UInt64[np.ndarray, "count"]:
    return _make_powers(factor, _KEPT_POWERS)


def _make_powers(factor: int, count: int) -> UInt64[np.ndarray, "count"]:
    factors = np.full(count, factor, dtype=np.uint64)
    factors[0] = 1
    return np.cumprod(factors, dtype=np.uint64)
