"""Rows to measure on: one document, or documents of log-normal lengths, as ids [1, tokens]."""

import numpy as np

from ropewalk.core.ranges import count_within

SIGMA = 1.3


def draw_pack(tokens: int, median_tokens: int | None, seed: int = 0) -> np.ndarray:
    """A row of documents whose lengths are log-normal around ``median_tokens``, cut at the row's end; None for one."""
    if median_tokens is None:
        return np.zeros((1, tokens), dtype=np.int32)
    count = 64 + 16 * tokens // median_tokens
    lengths = np.random.default_rng(seed).lognormal(np.log(median_tokens), SIGMA, size=count).astype(int) + 1
    assert lengths.sum() >= tokens
    return np.repeat(np.arange(count), np.minimum(lengths, tokens))[None, :tokens].astype(np.int32)


def count_places(document: np.ndarray) -> np.ndarray:
    """Where each token stands in its document: [tokens]."""
    flat = document.reshape(-1)
    start = np.flatnonzero(np.append(True, flat[1:] != flat[:-1]))
    return count_within(np.diff(np.append(start, flat.size)))
