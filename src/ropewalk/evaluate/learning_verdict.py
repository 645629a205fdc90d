"""Whether a measure still moves: ``still learning``, ``saturated`` or ``within noise``, against the noise of training.

Two checkpoints differ even where nothing is learned: the last steps move the weights, and another seed gives another
model (twin runs elsewhere differed by 20 points of one benchmark). A change smaller than that is no reason to train on,
nor to prefer a checkpoint. The noise is the spread of the measure around its trend over the last checkpoints, or its
spread over seeds, whichever is larger.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ropewalk.core.error import UserError
from ropewalk.core.quantity import format_count
from ropewalk.evaluate.score import Estimate, Interval

State = Literal["still learning", "saturated", "within noise"]
FEWEST_CHECKPOINTS = 4


@dataclass(frozen=True, slots=True)
class LearningVerdict:
    """What the last checkpoints say of one measure."""

    state: State
    change: Interval
    """What the measure changed over the checkpoints by its linear trend, with its 95 % interval; a gain is above 0."""
    noise: float
    """Standard deviation of the measure that training alone gives."""
    text: str


def judge_learning(
    values: Sequence[float], *, seeds: Sequence[float] = (), margin: float, lower_is_better: bool = False
) -> LearningVerdict:
    """Judge a measure of the last checkpoints, oldest first, at equal distances.

    ``seeds`` are the same measure of runs that differ in the seed only. ``margin`` is the smallest change that matters,
    in the measure's unit. ``still learning``: the gain's interval lies above 0. ``saturated``: no gain of ``margin``
    lies in it, so a stop loses less than that. ``within noise``: it holds both, so more checkpoints or more answers
    decide. Raises UserError for fewer than four checkpoints.
    """
    if len(values) < FEWEST_CHECKPOINTS:
        raise UserError(
            f"no trend can be seen in {format_count(len(values), 'checkpoint')}",
            where="verdict on learning",
            why="a line has two parameters, and the noise around it needs two checkpoints more",
            fix=f"measure {FEWEST_CHECKPOINTS} checkpoints or more",
        )
    assert margin > 0
    gain = (np.array(values) - values[0]) * (-1 if lower_is_better else 1)  # exactly 0 where nothing changes
    steps = np.arange(len(gain)) - (len(gain) - 1) / 2
    slope = float((steps * gain).sum() / (steps**2).sum())
    freedom = len(gain) - 2
    around = math.sqrt(float(np.square(gain - gain.mean() - slope * steps).sum()) / freedom)
    over_seeds = float(np.std(seeds, ddof=1)) if len(seeds) > 1 else 0.0
    noise = max(around, over_seeds)
    if over_seeds > around:
        freedom = len(seeds) - 1
    span = len(gain) - 1
    found = Estimate(slope * span, noise * span / math.sqrt(float((steps**2).sum())), freedom, len(gain))
    value, low, high = found.interval
    state: State = "still learning" if low > 0 else "saturated" if high < margin else "within noise"
    text = (
        f"{state}, {value:+z.4f} [{low:+z.4f}, {high:+z.4f}] over {len(gain)} checkpoints, where {margin:g} matters; "
        f"noise {'of seeds' if over_seeds > around else 'around the trend'} {noise:.3g}"
    )
    return LearningVerdict(state, found.interval, noise, text)
