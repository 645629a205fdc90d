"""MinHash signatures of many short texts at once: those of ``sign``, text by text, with a twentieth of the calls.

The words of all texts lie one after the other, and each shingle has the number of its text. A line break between two
texts ends the last word of the first one.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64, UInt32, UInt64

from ropewalk.corpus.dedup.minhash import BIN_SHIFT, EMPTY, ROUND_KEYS, SHINGLE_WORDS, SIGNATURE, shorten_numbers
from ropewalk.corpus.text.shingle import find_lowered_words, mix_bits, window_hashes
from ropewalk.corpus.text.short_texts import count_up


def sign_short(texts: Sequence[str]) -> UInt32[np.ndarray, "texts 128"]:
    """The signature of each text. The texts are short: all of them are in memory as numbers at once."""
    keys, home = _find_shingles(texts)
    least = np.full(len(texts) * SIGNATURE, EMPTY)
    _lower(least, keys, home)
    for round_key in ROUND_KEYS:
        is_open = (least == EMPTY).reshape(-1, SIGNATURE).any(axis=1)[home]
        keys, home = keys[is_open], home[is_open]
        if not len(keys):
            break
        filled = np.full(len(least), EMPTY)
        _lower(filled, mix_bits(keys + round_key), home)
        np.copyto(least, filled, where=least == EMPTY)
    return shorten_numbers(least).reshape(-1, SIGNATURE)


def _find_shingles(texts: Sequence[str]) -> tuple[UInt64[np.ndarray, "shingles"], Int64[np.ndarray, "shingles"]]:
    """The hash of each shingle of each text, and the number of its text."""
    lowered = [text.lower() for text in texts]
    words = find_lowered_words("\n".join(lowered))
    ends = count_up([len(text) + 1 for text in lowered])[1:]
    borders = np.concatenate([[0], np.searchsorted(words.start, ends)])
    counts = np.diff(borders)
    width = np.minimum(counts, SHINGLE_WORDS)
    shingles = np.where(counts > 0, counts - width + 1, 0)
    home = np.repeat(np.arange(len(texts)), shingles)
    start = np.arange(len(home)) + (borders[:-1] - count_up(shingles)[:-1])[home]
    return window_hashes(words.hashes, start, start + width[home]), home


def _lower(
    least: UInt64[np.ndarray, "numbers"], keys: UInt64[np.ndarray, "shingles"], home: Int64[np.ndarray, "shingles"]
) -> None:
    """Lower each number of a text to the least of the text's keys that select it."""
    np.minimum.at(least, home * SIGNATURE + (keys >> BIN_SHIFT).astype(np.int64), keys)
