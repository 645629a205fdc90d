"""Which part of a long document is read for its gain from context, where a tenth of the whole reading must do.

A whole reading takes about five times the document's tokens: once with full context, and four times in windows with
truncated context. A sampled one reads one stretch of the document with full context, from a place that is drawn by the
document's id, and few windows of it with truncated context. The context reaches back to the beginning of the stretch
only, and truncated context is half to all of ``truncated_tokens``, so that more tokens count for the cost.

The interval is that of the mean over all such blocks of the document, from the spread of those that were read.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Float64, Int64

from ropewalk.core.seed import stream
from ropewalk.evaluate.items import Item, Sums
from ropewalk.evaluate.student_t import standard_errors

WINDOWS, SAMPLED, BLOCKS = 4, 2, 4
"""Of a window of a whole reading its last quarter counts, of a sampled one its last half, in four blocks."""


@dataclass(frozen=True, slots=True)
class SampledStretch:
    """Tokens ``[begin, end)`` of a document; ``windows`` are the places where the counted tokens of a window begin."""

    begin: int
    end: int
    windows: tuple[int, ...]

    def count_read(self, truncated_tokens: int) -> int:
        """Tokens that are read for it, with full and with truncated context."""
        return self.end - self.begin + len(self.windows) * truncated_tokens


def count_whole(length: int, truncated_tokens: int) -> int:
    """Tokens that a whole reading of a document of ``length`` tokens takes."""
    return length + -(-(length - truncated_tokens) // (truncated_tokens // WINDOWS)) * truncated_tokens


def choose_stretch(length: int, truncated_tokens: int, share: float, *purpose: str) -> SampledStretch:
    """The stretch of a document that costs ``share`` of a whole reading, or the least that there is: one window.

    Half of the cost is the stretch, half its windows. They are the last of each of equal parts of the stretch behind
    its first ``truncated_tokens``, so that much context is before them. ``purpose`` names the document.
    """
    step = truncated_tokens // SAMPLED
    budget = share * count_whole(length, truncated_tokens)
    windows = max(1, int(budget / 2 / truncated_tokens))
    size = int(min(length, max(truncated_tokens + step, budget - windows * truncated_tokens)))
    windows = min(windows, (size - truncated_tokens) // step)
    begin = int(stream("gain sample", *purpose).integers(0, length - size + 1))
    room = size - truncated_tokens
    ends = [begin + truncated_tokens + room * (number + 1) // windows for number in range(windows)]
    return SampledStretch(begin, begin + size, tuple(end - step for end in ends))


def sample_items(
    tokens: Sequence[Int64[np.ndarray, "_"]], stretches: Sequence[SampledStretch], *, truncated_tokens: int
) -> tuple[list[Item], list[int]]:
    """The texts to read, and for each document its first group: a pair of groups (full, truncated) for each block.

    ``tokens`` are those of the whole documents.
    """
    step = truncated_tokens // SAMPLED
    items, firsts, group = [], [], 0
    for text, stretch in zip(tokens, stretches, strict=True):
        firsts.append(group)
        full = np.full(stretch.end - stretch.begin, -1, dtype=np.int64)
        for begin in stretch.windows:
            blocks = group + 2 * (np.arange(step) * BLOCKS // step)
            full[begin - stretch.begin : begin - stretch.begin + step] = blocks
            truncated = np.full(truncated_tokens, -1, dtype=np.int64)
            truncated[-step:] = blocks + 1
            end = begin + step
            items.append(Item(text[end - truncated_tokens : end], truncated))
            group += 2 * BLOCKS
        items.append(Item(text[stretch.begin : stretch.end], full))
    return items, [*firsts, group]


@dataclass(frozen=True, slots=True)
class SampledGain:
    """The gain of a document with its 95 % interval, and its loss with full context, in nats. One block has no
    interval."""

    gain: float
    low: float | None
    high: float | None
    loss: float


def find_gains(sums: Sums, firsts: Sequence[int]) -> list[SampledGain]:
    """The gain of each document from the sums of its blocks; ``firsts`` as ``sample_items`` returned them."""
    found = []
    for first, last in pairwise(firsts):
        counts, nll = (column[first:last].reshape(-1, 2) for column in (sums.count, sums.nll))
        held = counts[:, 0] > 0  # a window of fewer tokens than blocks leaves some empty
        found.append(_find_gain(counts[held, 0], nll[held]))
    return found


def _find_gain(counts: Float64[np.ndarray, "blocks"], nll: Float64[np.ndarray, "blocks 2"]) -> SampledGain:
    gain, loss = float((nll[:, 1] - nll[:, 0]).sum() / counts.sum()), float(nll[:, 0].sum() / counts.sum())
    number = len(counts)
    if number < 2:
        return SampledGain(gain, None, None, loss)
    off = (nll[:, 1] - nll[:, 0] - gain * counts) / counts.mean()
    wide = standard_errors(number - 1) * float(np.sqrt((off**2).sum() / (number - 1) / number))
    return SampledGain(gain, gain - wide, gain + wide, loss)
