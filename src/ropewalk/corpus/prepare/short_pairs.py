"""The pairs of neighbouring sentences and lines of many short texts at once: those of ``find_pairs``, text by text.

The texts lie one after the other, and each end of a text is also the end of a sentence or line (a unit).
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64, UInt64

from ropewalk.corpus.prepare.repeated_sections import find_breaks, trim_units
from ropewalk.corpus.text.language import code_points
from ropewalk.corpus.text.shingle import window_hashes
from ropewalk.corpus.text.short_texts import count_up

Counts = Int64[np.ndarray, "texts 2"]


def find_short_pairs(
    texts: Sequence[str],
) -> tuple[UInt64[np.ndarray, "pairs"], Int64[np.ndarray, "units"], Counts]:
    """The hash of each pair of units and the end of each unit in characters, of all texts in order; and of each text
    the number of its pairs and units. No text is empty."""
    points = code_points("".join(texts))
    borders = count_up([len(text) for text in texts])
    is_end = find_breaks(points)
    is_end[borders[1:] - 1] = True
    ends = np.flatnonzero(is_end) + 1
    starts = np.concatenate([[0], ends[:-1]])
    home = np.searchsorted(borders, starts, side="right") - 1
    # Empty lines belong to the unit before them, those at the start to the first unit. A text without any other line is
    # one unit.
    says = ends - starts > 1
    silent = np.bincount(home, weights=says, minlength=len(texts)) == 0
    says[np.searchsorted(ends, borders[1:][silent])] = True
    starts, home = starts[says], home[says]
    units = np.bincount(home, minlength=len(texts))
    firsts = count_up(units)
    starts[firsts[:-1]] = borders[:-1]
    ends = np.append(starts[1:], len(points))
    hashes = window_hashes(points, *trim_units(points, starts, ends))
    first_of_pair = np.flatnonzero(home[1:] == home[:-1])
    pairs = window_hashes(hashes, first_of_pair, first_of_pair + 2)
    return pairs, ends - borders[home], np.stack([units - 1, units], axis=1)
