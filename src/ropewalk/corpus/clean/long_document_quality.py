"""Two cheap measures of a long text: its coherence, and the growth of its vocabulary.

They are computed from hashed words in windows of 16Ki characters, at most 16 windows, evenly spread. A collection of
unlike parts has low coherence. A list that repeats itself has no growth of vocabulary. A book has some of both.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt64

from ropewalk.corpus.text.shingle import sort_unique, word_hashes

_WINDOW_CHARACTERS = 1 << 14
_WINDOWS = 16


@dataclass(frozen=True, slots=True)
class LengthFacts:
    """``coherence``: the share of the distinct words of a window that also occur half a document away.
    ``vocabulary_growth``: the share of the distinct words of the second half that the first half does not have."""

    coherence: float
    vocabulary_growth: float


def find_length_facts(text: str) -> LengthFacts | None:
    """The measures of a text of two windows or more, else None."""
    starts = range(0, len(text) - _WINDOW_CHARACTERS + 1, _WINDOW_CHARACTERS)
    if len(starts) < 2:
        return None
    chosen = starts[:: max(1, -(-len(starts) // _WINDOWS))]
    chosen = chosen if len(chosen) > 1 else starts[:2]
    windows = [sort_unique(word_hashes(text[start : start + _WINDOW_CHARACTERS])) for start in chosen]
    half = len(windows) // 2
    shares = [_share_in(far, near) for near, far in zip(windows, windows[half:], strict=False)]
    early, late = (sort_unique(np.concatenate(part)) for part in (windows[:half], windows[half:]))
    return LengthFacts(float(np.mean(shares)), 1 - _share_in(late, early))


def _share_in(words: UInt64[np.ndarray, "_"], others: UInt64[np.ndarray, "_"]) -> float:
    """The share of ``words`` that are in ``others``. Both are sorted and have no value twice."""
    if not len(words) or not len(others):
        return 0.0
    at = np.minimum(np.searchsorted(others, words), len(others) - 1)
    return float((others[at] == words).mean())
