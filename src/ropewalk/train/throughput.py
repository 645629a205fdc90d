"""How fast a stage goes and how long all of them will take: tokens, MFU, memory, the time that is left.

Arithmetic is that of the rows as they are packed, causal and within documents, so MFU does not rise with padding or
with pairs that nobody computes. It is a share of the data sheet's peak for a GPU that we know, else of a product of
matrices that all ranks take at once, in the precision of the run, when the stage begins.
"""

import time
from collections import deque
from dataclasses import dataclass
from statistics import median

import numpy as np
import torch
from jaxtyping import Int64

from ropewalk.core.quantity import format_amount
from ropewalk.corpus.mix.dataset import plan_strands
from ropewalk.corpus.tokens.corpus_folder import Corpus
from ropewalk.parallel.collective import sum_over_ranks
from ropewalk.parallel.fsdp import choose_precision
from ropewalk.parallel.mesh import Mesh
from ropewalk.plan.flops import token_flops
from ropewalk.plan.hardware import DATASHEET_FLOPS
from ropewalk.recipe.lora import Lora
from ropewalk.recipe.spec import Recipe
from ropewalk.recipe.stage import Stage
from ropewalk.recipe.stretch import stretch_stages
from ropewalk.shape.model_shape import ModelShape

_WIDTHS = {"cpu": 512, "cuda": 8192}
_PRODUCTS = 8
_RECENT = 64


@dataclass(frozen=True, slots=True)
class Peak:
    """What all ranks together could do in FLOP/s, and how that is known."""

    flops: float
    source: str

    def describe(self) -> str:
        """``0.21 TFLOP/s measured``."""
        return f"{format_amount(self.flops / 1e12)} TFLOP/s {self.source}"


def find_peak(recipe: Recipe, mesh: Mesh) -> Peak:
    """The peak of all ranks of ``mesh``; every rank calls it."""
    known = 0.0
    if mesh.device.type == "cuda":
        name = torch.cuda.get_device_name(mesh.device).lower()
        known = next((flops for part, flops in DATASHEET_FLOPS.items() if part in name), 0.0)
    mine = known or _measure_products(recipe, mesh)
    total, measured = sum_over_ranks(torch.tensor([mine, float(not known)], dtype=torch.float64)).tolist()
    return Peak(total, "measured" if measured else "by data sheet")


def _measure_products(recipe: Recipe, mesh: Mesh) -> float:
    """The best of a few products of square matrices, as the run multiplies them."""
    dtype = getattr(torch, choose_precision(recipe.parallel.precision, mesh))
    width = _WIDTHS[mesh.device.type]
    left, best = torch.ones(width, width, dtype=dtype, device=mesh.device), float("inf")
    for _ in range(_PRODUCTS):
        begun = time.perf_counter()
        (left @ left)[0, 0].item()
        best = min(best, time.perf_counter() - begun)
    return 2 * width**3 / best


class Pace:
    """Seconds of a step, and of what is done between steps, robust to a first one that compiles and allocates."""

    def __init__(self) -> None:
        self._steps: deque[float] = deque(maxlen=_RECENT)
        self._first = self._between = 0.0
        self._count = 0
        self._mark = time.perf_counter()

    def end_step(self) -> float:
        """The step's seconds; called when it ends."""
        seconds = self._lap()
        if self._count:
            self._steps.append(seconds)
        else:
            self._first = seconds
        self._count += 1
        return seconds

    def end_between(self) -> None:
        """Called when panel and saving, which follow a step, are done."""
        self._between += self._lap()

    @property
    def step_seconds(self) -> float:
        """What one more step will take, with its part of everything between."""
        return (median(self._steps) if self._steps else self._first) + self._between / max(1, self._count)

    def _lap(self) -> float:
        before, self._mark = self._mark, time.perf_counter()
        return self._mark - before


@dataclass(frozen=True)
class Gauge:
    """What a stage is measured by. ``later_flops`` is the arithmetic of the stages after it, as their text packs."""

    shape: ModelShape
    peak: Peak
    later_flops: float = 0.0
    lora: Lora | None = None

    def step_flops(self, document_tokens: Int64[np.ndarray, "documents"]) -> float:
        """Model FLOPs of a step whose rows hold these documents, or pieces of them."""
        tokens = max(1, int(document_tokens.sum()))
        return token_flops(self.shape, tokens, document_tokens=document_tokens, lora=self.lora).model * tokens

    def seconds_left(self, steps: int, *, pace_seconds: float, step_flops: float) -> float:
        """Of ``steps`` more of this stage, and of the later stages at the same FLOP/s."""
        return steps * pace_seconds + self.later_flops * pace_seconds / step_flops


def make_gauge(recipe: Recipe, stage: int, *, shape: ModelShape, mesh: Mesh, corpus: Corpus) -> Gauge:
    """For a stage whose model has ``shape``; every rank calls it."""
    later = recipe.model_copy(update={"stages": recipe.stages[stage + 1 :]})
    stretched = zip(later.stages, stretch_stages(later, shape), strict=False)
    flops = sum(_forecast_flops(recipe, spec, shape, corpus) for spec, shape in stretched)
    return Gauge(shape, find_peak(recipe, mesh), flops, recipe.stages[stage].lora)


def _forecast_flops(recipe: Recipe, spec: Stage, shape: ModelShape, corpus: Corpus) -> float:
    """Model FLOPs of a stage to come, from the lengths of its documents: nothing is packed for it."""
    tokens = spec.steps * spec.step_rows * spec.context
    strands = plan_strands(
        corpus,
        recipe.mix(spec),
        context_tokens=spec.context,
        tokens=tokens,
        max_repeats=recipe.corpus.max_repeats,
        rules=recipe.rules(spec),
    )
    each = 0.0
    for strand in strands:
        whole, rest = np.divmod(strand.lengths, spec.context)
        pieces = np.concatenate([np.full(int(whole.sum()), spec.context, dtype=np.int64), rest])
        each += strand.share * token_flops(shape, int(pieces.sum()), document_tokens=pieces, lora=spec.lora).model
    return tokens * each
