"""Which part of a long document is read for its gain from context, where a tenth of the whole reading must do.

A whole reading takes about five times the document's tokens: once with full context, and four times in windows with
truncated context. A sampled one reads one stretch of the document with full context, from a place that is drawn by the
document's id, and few windows of it with truncated context. The context reaches back to the beginning of the stretch
only, and truncated context is half to all of ``truncated_tokens``, so that more tokens count for the cost.

The mean gain of these windows is the raw material; gain_regression.py makes the document's gain of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Float64, Int64

from ropewalk.core.seed import stream
from ropewalk.evaluate.gain_regression import SampledBlocks, count_repeats, estimate_gains, find_rarity
from ropewalk.evaluate.items import Item, Sums
from ropewalk.evaluate.student_t import Z

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
    """The gain of a document with its 95 % interval, the mean gain of its windows alone, and its loss with full
    context, in nats."""

    gain: float
    low: float
    high: float
    of_windows: float
    loss: float


def find_gains(
    texts: Sequence[Int64[np.ndarray, "_"]],
    stretches: Sequence[SampledStretch],
    sums: Sums,
    firsts: Sequence[int],
    *,
    truncated_tokens: int,
    source: Sequence[str],
) -> list[SampledGain]:
    """The gain of each document from the sums of all blocks; ``firsts`` as ``sample_items`` returned them, ``source``
    the name of each document's source."""
    rarity = find_rarity(texts)
    blocks, whole = collect_blocks(texts, stretches, sums, firsts, truncated_tokens=truncated_tokens, rarity=rarity)
    names = [*dict.fromkeys(source)]
    counted = np.array([len(text) - truncated_tokens for text in texts], dtype=np.float64)
    found = estimate_gains(blocks, whole, counted, np.array([names.index(name) for name in source]))
    made = []
    for (first, last), gain, error in zip(pairwise(firsts), found.gain.tolist(), found.error.tolist(), strict=True):
        count, nll = sums.count[first:last:2].sum(), sums.nll[first:last].reshape(-1, 2).sum(axis=0)
        of_windows, loss = float(nll[1] - nll[0]) / count, float(nll[0]) / count
        made.append(SampledGain(gain, gain - Z * error, gain + Z * error, float(of_windows), float(loss)))
    return made


def collect_blocks(
    texts: Sequence[Int64[np.ndarray, "_"]],
    stretches: Sequence[SampledStretch],
    sums: Sums,
    firsts: Sequence[int],
    *,
    truncated_tokens: int,
    rarity: Float64[np.ndarray, "vocabulary"],
) -> tuple[SampledBlocks, Float64[np.ndarray, "documents features"]]:
    """The sampled blocks with the counts of their tokens within the stretch, and the mean counts of each document."""
    step = truncated_tokens // SAMPLED
    document, window, tokens, gain, counts, whole = [], [], [], [], [], []
    windows = 0
    for number, (text, stretch) in enumerate(zip(texts, stretches, strict=True)):
        seen = count_repeats(text[stretch.begin : stretch.end], truncated_tokens=truncated_tokens, rarity=rarity)
        whole.append(count_repeats(text, truncated_tokens=truncated_tokens, rarity=rarity)[truncated_tokens:].mean(0))
        group = firsts[number]
        for begin in stretch.windows:
            own = seen[begin - stretch.begin : begin - stretch.begin + step]
            block = np.arange(step) * BLOCKS // step
            windows += 1
            for at in range(BLOCKS):
                size = float(sums.count[group])
                if size > 0:  # a window of fewer tokens than blocks leaves some empty
                    window.append(windows - 1)
                    document.append(number)
                    tokens.append(size)
                    gain.append(float(sums.nll[group + 1] - sums.nll[group]) / size)
                    counts.append(own[block == at].mean(axis=0))
                group += 2
    places = np.array(document, dtype=np.int64), np.array(window, dtype=np.int64)
    return SampledBlocks(*places, np.array(tokens), np.array(gain), np.stack(counts)), np.stack(whole)
