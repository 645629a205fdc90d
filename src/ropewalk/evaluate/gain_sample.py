"""Which part of a long document is read for its gain from context, where a tenth of the whole reading must do.

A whole reading takes about five times the document's tokens: once with full context, and four times in windows with
truncated context. A sampled one reads one stretch of the document with full context, from a place that is drawn by the
document's id, and few windows of it with truncated context. The context reaches back to the beginning of the stretch
only, and truncated context is half to all of ``truncated_tokens``, so that more tokens count for the cost. Of a
document of many sections (gain_sections.py) some are read, evenly spread; their context is that of a whole reading.

The mean gain of these windows is the raw material; gain_regression.py makes the document's gain of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Float64, Int64

from ropewalk.core.seed import stream
from ropewalk.evaluate.gain_regression import SampledBlocks, count_repeats, estimate_gains, find_rarity
from ropewalk.evaluate.gain_sections import count_whole, cut_sections
from ropewalk.evaluate.items import Item, Sums
from ropewalk.evaluate.student_t import Z

SAMPLED, BLOCKS = 2, 4
"""Of a sampled window its last half counts, in four blocks."""


@dataclass(frozen=True, slots=True)
class SampledStretch:
    """Tokens ``[begin, end)`` of a document; ``windows`` are the places where the counted tokens of a window begin."""

    begin: int
    end: int
    windows: tuple[int, ...]

    def shift(self, begin: int) -> "SampledStretch":
        """The same stretch of a section that begins at ``begin``."""
        return SampledStretch(self.begin + begin, self.end + begin, tuple(at + begin for at in self.windows))

    def count_read(self, truncated_tokens: int) -> int:
        """Tokens that are read for it, with full and with truncated context."""
        return self.end - self.begin + len(self.windows) * truncated_tokens


def choose_stretches(
    length: int, share: float, *purpose: str, truncated_tokens: int, context_tokens: int
) -> list[SampledStretch]:
    """The stretches of a document that cost ``share`` of a whole reading. ``purpose`` names the document.

    Of one section it is one stretch. Of more, as many whole sections are read as half of the cost buys, at equal
    distances from a place that is drawn; the other half buys windows in them. A share that buys no section buys a
    stretch of one.
    """
    lengths = {"truncated_tokens": truncated_tokens, "context_tokens": context_tokens}
    sections = cut_sections(length, **lengths)
    budget = share * count_whole(length, **lengths)
    count = min(len(sections), int(budget / 2 / context_tokens))
    if len(sections) == 1 or count == 0:
        section = sections[int(stream("gain section", *purpose).integers(len(sections)))]
        size = section.end - section.begin
        own = min(1.0, budget / count_whole(size, **lengths))
        return [choose_stretch(size, truncated_tokens, own, *purpose).shift(section.begin)]
    step = truncated_tokens // SAMPLED
    windows = int((budget / count - context_tokens) / truncated_tokens)
    windows = max(1, min(windows, (context_tokens - truncated_tokens) // step))
    begins = _spread_windows(context_tokens, truncated_tokens, windows)
    draw = stream("gain section", *purpose).random()
    chosen = [sections[int((number + draw) * len(sections) / count)] for number in range(count)]
    return [SampledStretch(0, context_tokens, begins).shift(section.begin) for section in chosen]


def choose_stretch(length: int, truncated_tokens: int, share: float, *purpose: str) -> SampledStretch:
    """The stretch of a document that costs ``share`` of a whole reading, or the least that there is: one window.

    Half of the cost is the stretch, half its windows. They are the last of each of equal parts of the stretch behind
    its first ``truncated_tokens``, so that much context is before them. ``purpose`` names the document.
    """
    step = truncated_tokens // SAMPLED
    budget = share * count_whole(length, truncated_tokens=truncated_tokens, context_tokens=length)
    windows = max(1, int(budget / 2 / truncated_tokens))
    size = int(min(length, max(truncated_tokens + step, budget - windows * truncated_tokens)))
    windows = min(windows, (size - truncated_tokens) // step)
    begin = int(stream("gain sample", *purpose).integers(0, length - size + 1))
    return SampledStretch(0, size, _spread_windows(size, truncated_tokens, windows)).shift(begin)


def _spread_windows(size: int, truncated_tokens: int, windows: int) -> tuple[int, ...]:
    """Where the counted tokens of ``windows`` windows begin in a stretch of ``size`` tokens."""
    room = size - truncated_tokens
    ends = [truncated_tokens + room * (number + 1) // windows for number in range(windows)]
    return tuple(end - truncated_tokens // SAMPLED for end in ends)


def sample_items(
    tokens: Sequence[Int64[np.ndarray, "_"]], chosen: Sequence[Sequence[SampledStretch]], *, truncated_tokens: int
) -> tuple[list[Item], list[int]]:
    """The texts to read, and for each document its first group: a pair of groups (full, truncated) for each block.

    ``tokens`` are those of the whole documents.
    """
    step = truncated_tokens // SAMPLED
    items, firsts, group = [], [], 0
    for text, stretches in zip(tokens, chosen, strict=True):
        firsts.append(group)
        for stretch in stretches:
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
    chosen: Sequence[Sequence[SampledStretch]],
    sums: Sums,
    firsts: Sequence[int],
    *,
    truncated_tokens: int,
    context_tokens: int,
    source: Sequence[str],
) -> list[SampledGain]:
    """The gain of each document from the sums of all blocks; ``firsts`` as ``sample_items`` returned them, ``source``
    the name of each document's source."""
    rarity = find_rarity(texts)
    blocks = collect_blocks(texts, chosen, sums, firsts, truncated_tokens=truncated_tokens, rarity=rarity)
    lengths = {"truncated_tokens": truncated_tokens, "context_tokens": context_tokens}
    whole, counted = zip(*(_count_whole_text(text, rarity, **lengths) for text in texts), strict=True)
    names = [*dict.fromkeys(source)]
    number = np.array([names.index(name) for name in source])
    found = estimate_gains(blocks, np.stack(whole), np.array(counted, dtype=np.float64), number)
    made = []
    for (first, last), gain, error in zip(pairwise(firsts), found.gain.tolist(), found.error.tolist(), strict=True):
        count, nll = sums.count[first:last:2].sum(), sums.nll[first:last].reshape(-1, 2).sum(axis=0)
        of_windows, loss = float(nll[1] - nll[0]) / count, float(nll[0]) / count
        made.append(SampledGain(gain, gain - Z * error, gain + Z * error, float(of_windows), float(loss)))
    return made


def _count_whole_text(
    text: Int64[np.ndarray, "_"],
    rarity: Float64[np.ndarray, "vocabulary"],
    *,
    truncated_tokens: int,
    context_tokens: int,
) -> tuple[Float64[np.ndarray, "features"], int]:
    """The mean counts of the tokens that a whole reading counts, as far as it sees back, and how many these are. Its
    truncated context is never shorter than three quarters, hence the last 0."""
    sections = cut_sections(len(text), truncated_tokens=truncated_tokens, context_tokens=context_tokens)
    *equal, last = sections
    seen = count_repeats(text[last.begin :], truncated_tokens=truncated_tokens, rarity=rarity)
    sums, counted = seen[last.first - last.begin :].sum(axis=0), last.end - last.first
    if equal:
        own = text[: equal[-1].end]
        seen = count_repeats(own, truncated_tokens=truncated_tokens, rarity=rarity, section_tokens=context_tokens)
        sums += seen.reshape(len(equal), context_tokens, -1)[:, truncated_tokens:].sum(axis=(0, 1))
        counted += len(equal) * (context_tokens - truncated_tokens)
    return np.append(sums / counted, 0), counted


def collect_blocks(
    texts: Sequence[Int64[np.ndarray, "_"]],
    chosen: Sequence[Sequence[SampledStretch]],
    sums: Sums,
    firsts: Sequence[int],
    *,
    truncated_tokens: int,
    rarity: Float64[np.ndarray, "vocabulary"],
) -> SampledBlocks:
    """The sampled blocks with the counts of their tokens within the stretch, and whether truncated context was shorter
    than in a whole reading. Windows of one section are one unit, since they are of one part of the document."""
    step = truncated_tokens // SAMPLED
    document, unit, tokens, gain, counts = [], [], [], [], []
    units = 0
    for number, (text, stretches) in enumerate(zip(texts, chosen, strict=True)):
        group, size = firsts[number], stretches[0].end - stretches[0].begin  # all are of one size
        read = np.concatenate([text[stretch.begin : stretch.end] for stretch in stretches])
        counted = count_repeats(read, truncated_tokens=truncated_tokens, rarity=rarity, section_tokens=size)
        for stretch, seen in zip(stretches, counted.reshape(len(stretches), size, -1), strict=True):
            units += len(stretches) > 1
            for begin in stretch.windows:
                own = seen[begin - stretch.begin : begin - stretch.begin + step]
                block = np.arange(step) * BLOCKS // step
                units += len(stretches) == 1
                for at in range(BLOCKS):
                    predictions = float(sums.count[group])
                    if predictions > 0:  # a window of fewer tokens than blocks leaves some empty
                        unit.append(units - 1)
                        document.append(number)
                        tokens.append(predictions)
                        gain.append(float(sums.nll[group + 1] - sums.nll[group]) / predictions)
                        counts.append(np.append(own[block == at].mean(axis=0), at < BLOCKS // SAMPLED))
                    group += 2
    places = np.array(document, dtype=np.int64), np.array(unit, dtype=np.int64)
    return SampledBlocks(*places, np.array(tokens), np.array(gain), np.stack(counts))
