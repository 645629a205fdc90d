"""Hashes runs of words to 64-bit numbers, on whole arrays. Near-duplicates, repetition and contamination use them.

A word is a run of letters and digits. In Han and kana every character is a word, since nothing separates their words.
The hashes are polynomials over code points, and one running sum gives the hashes of all windows at once. This works
because the factor is odd, so that a division by it modulo 2**64 is possible. Narrower keys would cost ten times the
error (measured at 32 bits).
"""

from functools import cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int64, Integer, UInt32, UInt64

from ropewalk.corpus.text.language import code_points, table_of

_FACTOR = 0x9E3779B97F4A7C15
_INVERSE = pow(_FACTOR, -1, 1 << 64)
_KEPT_POWERS = (1 << 20) + (1 << 12)  # for one block and its overlap with the next one
# First code point of each run; whether its characters belong to words; whether each of them is a word by itself.
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
    """The words of a text: for each word its hash, its start and end in characters, and whether it is a single
    character of Han or kana, which is a word by itself."""

    hashes: UInt64[np.ndarray, "words"]
    start: Int64[np.ndarray, "words"]
    end: Int64[np.ndarray, "words"]
    alone: Bool[np.ndarray, "words"]


def word_hashes(text: str) -> UInt64[np.ndarray, "words"]:
    """A hash for each word of ``text``, in order. Case is ignored."""
    return find_lowered_words(text.lower()).hashes


def find_words(text: str) -> Words:
    """The words of ``text`` with their places. Case is ignored."""
    lowered = text.lower()
    if len(lowered) != len(text):  # only the dotted capital I becomes two characters
        lowered = text.replace("\u0130", "i").lower()
    return find_lowered_words(lowered)


def find_lowered_words(text: str) -> Words:
    """The words of a text in lower case, with their places."""
    points = code_points(text)
    kinds = table_of(_STARTS, _KINDS).take(points)
    # A word begins where the kind of the characters changes, and at every character that is a word by itself.
    begins = kinds > 0
    begins[1:] &= (kinds[1:] != kinds[:-1]) | (kinds[1:] > _IN_WORD)
    start = np.flatnonzero(begins)
    ends = kinds > 0
    ends[:-1] &= begins[1:] | (kinds[1:] == 0)
    end = np.flatnonzero(ends) + 1
    return Words(window_hashes(points, start, end), start, end, kinds[start] > _IN_WORD)


def shingles(words: UInt64[np.ndarray, "words"], width: int) -> UInt64[np.ndarray, "shingles"]:
    """A hash for each run of ``width`` words. Fewer words give one hash for all of them; no words give none."""
    width = min(width, len(words))
    if width == 0:
        return words
    return mix_bits(_run_hashes(words, width))


def character_runs(text: str, width: int) -> UInt64[np.ndarray, "runs"]:
    """A hash for each run of ``width`` characters of ``text``. A shorter text gives none. The hashes are compared with
    each other only, so their bits are not mixed."""
    points = code_points(text)
    return _run_hashes(points, width) if len(points) >= width else np.empty(0, dtype=np.uint64)


def _run_hashes(
    values: UInt32[np.ndarray, "values"] | UInt64[np.ndarray, "values"], width: int
) -> UInt64[np.ndarray, "runs"]:
    """``window_hashes`` of all runs of ``width`` values, before their bits are mixed."""
    running, inverse = _running_sum(values), _powers(_INVERSE, len(values) + 1)
    sums = running[width - 1 :].copy()
    sums[1:] -= running[:-width]
    sums *= inverse[: len(sums)]
    return sums


def sort_unique(values: UInt64[np.ndarray, "values"]) -> UInt64[np.ndarray, "unique"]:
    """The distinct values, sorted. A sort of 64-bit numbers is faster than numpy's hash table."""
    values = np.sort(values)
    return values[np.concatenate([[True], values[1:] != values[:-1]])] if len(values) else values


def mix_bits(values: UInt64[np.ndarray, "*any"]) -> UInt64[np.ndarray, "*any"]:
    """Spread every input bit over all 64 (the finaliser of splitmix64)."""
    mixed: UInt64[np.ndarray, "*any"] = values ^ (values >> np.uint64(30))
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(27)
    mixed *= np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return mixed


def window_hashes(
    values: UInt32[np.ndarray, "values"] | UInt64[np.ndarray, "values"],
    start: Integer[np.ndarray, "windows"],
    end: Integer[np.ndarray, "windows"],
) -> UInt64[np.ndarray, "windows"]:
    """Hash of ``values[start:end]`` for each window: sum of value x FACTOR**(position in the window)."""
    running = np.concatenate([np.zeros(1, dtype=np.uint64), _running_sum(values)])
    return mix_bits((running[end] - running[start]) * _powers(_INVERSE, len(values) + 1)[start])


def _running_sum(
    values: UInt32[np.ndarray, "values"] | UInt64[np.ndarray, "values"],
) -> UInt64[np.ndarray, "values"]:
    """Sum of (value + 1) x FACTOR**position up to and with each value."""
    terms = values + np.uint64(1)
    terms *= _powers(_FACTOR, len(values))
    return np.cumsum(terms, out=terms)


def _powers(factor: int, count: int) -> UInt64[np.ndarray, "count"]:
    return _kept_powers(factor)[:count] if count <= _KEPT_POWERS else _make_powers(factor, count)


@cache
def _kept_powers(factor: int) -> UInt64[np.ndarray, "count"]:
    return _make_powers(factor, _KEPT_POWERS)


def _make_powers(factor: int, count: int) -> UInt64[np.ndarray, "count"]:
    factors = np.full(count, factor, dtype=np.uint64)
    factors[0] = 1
    return np.cumprod(factors, dtype=np.uint64)
