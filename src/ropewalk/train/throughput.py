"""Throughput of a stage and the time that is left for all stages: tokens per second, MFU, seconds left.

FLOPs are counted for the sequences as they are packed, causal and within documents. So padding and pairs that are not
computed do not raise MFU. MFU is a share of the data sheet's peak where the GPU is in our table. Otherwise it is a
share of a measured peak: when the stage begins, all ranks multiply matrices at the same time, in the run's precision.
"""

import time
from collections import deque
from dataclasses import dataclass
from statistics import median

import numpy as np
from jaxtyping import Int64

from ropewalk.corpus.mix.planned_strata import plan_strata
from ropewalk.corpus.tokens.corpus_folder import Corpus
from ropewalk.plan.flops import token_flops
from ropewalk.plan.receipt import Rig
from ropewalk.recipe.lora import Lora
from ropewalk.recipe.spec import Recipe
from ropewalk.recipe.stage import Stage
from ropewalk.recipe.stretch import stretch_stages
from ropewalk.shape.model_shape import ModelShape

_RECENT = 64


class Pace:
    """The seconds of a step, and of the work between steps.

    They are robust to a slow first step, which compiles and allocates.
    """

    def __init__(self) -> None:
        self._steps: deque[float] = deque(maxlen=_RECENT)
        self._first = self._between = 0.0
        self._count = 0
        self._mark = time.perf_counter()

    def end_step(self) -> float:
        """Return the seconds of the step. Call it when the step ends."""
        seconds = self._lap()
        if self._count:
            self._steps.append(seconds)
        else:
            self._first = seconds
        self._count += 1
        return seconds

    def end_between(self) -> None:
        """Record the time between steps. Call it when the averaged metrics and the saving after a step are done."""
        self._between += self._lap()

    @property
    def step_seconds(self) -> float:
        """The expected seconds of one more step, with its share of the time between steps."""
        return (median(self._steps) if self._steps else self._first) + self._between / max(1, self._count)

    def _lap(self) -> float:
        before, self._mark = self._mark, time.perf_counter()
        return self._mark - before


@dataclass(frozen=True)
class Throughput:
    """The figures for measuring the throughput of a stage.

    ``later_flops`` is the model FLOPs of all later stages, from the lengths of their documents.
    """

    shape: ModelShape
    rig: Rig
    later_flops: float = 0.0
    lora: Lora | None = None

    def step_flops(self, document_tokens: Int64[np.ndarray, "documents"]) -> float:
        """Return the model FLOPs of a step whose sequences hold these documents, or segments of them."""
        tokens = max(1, int(document_tokens.sum()))
        return token_flops(self.shape, tokens, document_tokens=document_tokens, lora=self.lora).model * tokens

    def seconds_left(self, steps: int, *, pace_seconds: float, step_flops: float) -> float:
        """Return the seconds for ``steps`` more steps of this stage, and for the later stages at the same FLOP/s."""
        return steps * pace_seconds + self.later_flops * pace_seconds / step_flops


def forecast_later_stages(recipe: Recipe, stage: int, shape: ModelShape, corpus: Corpus) -> float:
    """Return the model FLOPs of all stages after ``stage``, whose model has ``shape``."""
    later = recipe.model_copy(update={"stages": recipe.stages[stage + 1 :]})
    stretched = zip(later.stages, stretch_stages(later, shape), strict=False)
    return sum(_forecast_flops(recipe, spec, shape, corpus) for spec, shape in stretched)


def _forecast_flops(recipe: Recipe, spec: Stage, shape: ModelShape, corpus: Corpus) -> float:
    """Return the model FLOPs of a later stage, from the lengths of its documents. No sequence is packed for this."""
    tokens = spec.steps * spec.step_sequences * spec.context_length
    strata = plan_strata(
        corpus,
        recipe.mix(spec),
        context_tokens=spec.context_length,
        tokens=tokens,
        max_repeats=recipe.corpus.max_repeats,
        rules=recipe.rules(spec),
    )
    each = 0.0
    for stratum in strata:
        whole, rest = np.divmod(stratum.lengths, spec.context_length)
        segments = np.concatenate([np.full(int(whole.sum()), spec.context_length, dtype=np.int64), rest])
        each += stratum.share * token_flops(shape, int(segments.sum()), document_tokens=segments, lora=spec.lora).model
    return tokens * each
