"""What is cheap to know about a long text: does it hang together, and does it go on saying new things?

Read off hashed words in windows of 16Ki characters, at most 16, evenly spread. A collection glued from unlike pieces
has low coherence; a list that repeats itself has no growth of vocabulary; a book has some of both.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt64

from ropewalk.corpus.text.shingle import word_hashes

_WINDOW_CHARACTERS = 1 << 14
_WINDOWS = 16


@dataclass(frozen=True, slots=True)
class LengthFacts:
    """``coherence``: of the words (kinds of them) of a window, the share that stands half a document away too.
    ``vocabulary_growth``: the share of the second half's words (kinds of them) that the first half has not."""

    coherence: float
    vocabulary_growth: float


def find_length_facts(text: str) -> LengthFacts | None:
    """The facts of a text of two windows or more, else None."""
    starts = range(0, len(text) - _WINDOW_CHARACTERS + 1, _WINDOW_CHARACTERS)
    if len(starts) < 2:
        return None
    chosen = starts[:: max(1, -(-len(starts) // _WINDOWS))]
    chosen = chosen if len(chosen) > 1 else starts[:2]
    windows = [np.unique(word_hashes(text[start : start + _WINDOW_CHARACTERS])) for start in chosen]
    half = len(windows) // 2
    shares = [_share_in(far, near) for near, far in zip(windows, windows[half:], strict=False)]
    early, late = (np.unique(np.concatenate(part)) for part in (windows[:half], windows[half:]))
    return LengthFacts(float(np.mean(shares)), 1 - _share_in(late, early))


def _share_in(words: UInt64[np.ndarray, "_"], others: UInt64[np.ndarray, "_"]) -> float:
    return float(np.isin(words, others).mean()) if len(words) else 0.0
