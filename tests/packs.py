"""Packed sequences to cut, and the truth about them: the whole mask."""

from collections.abc import Sequence

import numpy as np
from hypothesis import strategies as st


def pack(lengths: Sequence[int], context_tokens: int) -> np.ndarray:
    """One sequence [1, context] of documents; what is left is padding."""
    ids = np.repeat(np.arange(len(lengths)), lengths)[:context_tokens]
    return np.append(ids, np.full(context_tokens - len(ids), -1)).astype(np.int32)[None]


def mask_of(document: np.ndarray, window: int | None = None) -> np.ndarray:
    """Whether packed query [i] sees packed key [j]."""
    sequence, ids = np.repeat(np.arange(len(document)), document.shape[1]), document.reshape(-1)
    back = np.arange(ids.size)[:, None] - np.arange(ids.size)
    seen = (sequence[:, None] == sequence) & (ids[:, None] == ids) & (ids >= 0)[:, None] & (back >= 0)
    return seen if window is None else seen & (back < window)


@st.composite
def packs(draw: st.DrawFn) -> tuple[np.ndarray, int]:
    """Sequences of documents and a number of ranks that divides their tokens."""
    ranks = draw(st.integers(1, 5))
    context_tokens = draw(st.integers(1, 24)) * draw(st.sampled_from([1, ranks]))
    lengths = st.lists(st.integers(1, 40), min_size=0, max_size=12)
    sequences = [pack(draw(lengths), context_tokens) for _ in range(draw(st.integers(1, 3)))]
    document = np.concatenate(sequences if len(sequences) * context_tokens % ranks == 0 else sequences * ranks)
    return document, ranks


def mixed_pack() -> np.ndarray:
    """128Ki tokens: documents around 4Ki tokens, log-normal."""
    lengths = np.random.default_rng(7).lognormal(np.log(4096), 1.3, size=200).astype(int) + 1
    return pack(np.minimum(lengths, 1 << 16).tolist(), 1 << 17)
