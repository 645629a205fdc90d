"""Skip-wise positions (PoSE): sequences stay short, and the positions in them reach as far as the target.

A document of a sequence is cut into chunks, and each chunk after the first is moved on by a random amount. So training
meets every distance up to ``reach`` at the cost of short sequences. Zhu et al. 2023 (2309.10400, section 3) went from
2Ki to 16Ki this way and stayed within 0.07 of full-length training in perplexity. It has one limit: no text depends on
text that far away. So it teaches angles, but not the use of a long document.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated

import numpy as np
from jaxtyping import Int32
from pydantic import Field

from ropewalk.core.quantity import PositiveCount
from ropewalk.core.spec import Spec


class Pose(Spec):
    """``pose: {reach: 128Ki}`` of a stage."""

    reach: PositiveCount
    """Tokens: every position lies below it, and the stage's method is completed for it."""
    chunks: Annotated[PositiveCount, Field(ge=2)] = 2
    """Parts of each document, as far as it has tokens; the paper's 2 is enough."""


def pose_positions(
    document: Int32[np.ndarray, "rows context"], pose: Pose, *, random: Sequence[np.random.Generator]
) -> Int32[np.ndarray, "rows context"]:
    """Positions of packed sequences, each drawn from its own generator; padding (document -1) stays at 0."""
    positions = np.zeros(document.shape, dtype=np.int32)
    for row, ids, draw in zip(positions, document, random, strict=True):
        borders = np.flatnonzero(np.diff(ids, prepend=ids[0] - 1, append=ids[-1] + 1))
        for begin, end in pairwise(borders.tolist()):
            if ids[begin] >= 0:
                row[begin:end] = pose_document(end - begin, pose, random=draw)
    return positions


def pose_document(tokens: int, pose: Pose, *, random: np.random.Generator) -> Int32[np.ndarray, "tokens"]:
    """Positions of one document: strictly increasing from 0 and below ``reach``.

    The chunk ends are drawn without replacement from all places. The first chunk does not move. The offset of each
    later chunk is drawn uniformly from the values that are not below its predecessor's offset and keep the last token
    below ``reach``.
    """
    assert tokens <= pose.reach, "no sequence is longer than what its positions reach"
    positions = np.arange(tokens, dtype=np.int32)
    for begin in np.sort(random.choice(tokens - 1, size=min(pose.chunks, tokens) - 1, replace=False)) + 1:
        positions[begin:] += random.integers(pose.reach - positions[-1])
    return positions
