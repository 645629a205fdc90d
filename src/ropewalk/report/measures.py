"""Computes the numbers of the pictures from a run's records: shares, loss by position, retrieval, frequencies."""

import math

import numpy as np

from ropewalk.report.charts import PositionLossCurve, RetrievalMap, SourcePart
from ropewalk.report.contents import Contents, StageContents
from ropewalk.report.positions import Turning, choose_colours
from ropewalk.report.verdict import position_buckets
from ropewalk.rope.layers import find_stretched


def length_marks(contents: Contents) -> dict[str, int]:
    """The lengths that pictures mark: the trained length, and the base's length if the run goes beyond it."""
    base, trained = contents.base_context_tokens, contents.context_tokens
    return {"trained at": trained} if base is None or base >= trained else {"base": base, "trained at": trained}


def read_mixture(contents: Contents, stage: StageContents) -> list[SourcePart]:
    """Every source that a stage reads, in the recipe's order, with its planned share of the sequences.

    The planned share is nan if training did not note it. It cannot be computed from the mix alone, because languages,
    lengths and exhausted sources change it.
    """
    taken, planned = stage.source_tokens, stage.planned or {}
    total = max(1, sum(taken.values()))
    parts = []
    for name, facts in contents.sources.items():
        role, held, tokens = str(facts["role"]), int(facts["tokens"]), taken.get(name, 0)
        if held and (planned.get(name) or tokens):
            parts.append(SourcePart(name, role, planned.get(name, math.nan), tokens / total, tokens, tokens / held))
    return parts


def position_losses(contents: Contents) -> list[PositionLossCurve]:
    """Loss by position of every model that has such scores."""
    lines = []
    for model in contents.models:
        if buckets := position_buckets(contents, model):
            scores = [score for *_, score in buckets]
            lines.append(
                PositionLossCurve(
                    model=model,
                    buckets=[(first, end) for first, end, _ in buckets],
                    values=[score.value for score in scores],
                    lows=[score.low if math.isfinite(score.low) else score.value for score in scores],
                    highs=[score.high if math.isfinite(score.high) else score.value for score in scores],
                )
            )
    return lines


def retrieval_maps(contents: Contents, task: str) -> list[RetrievalMap]:
    """A task's right answers by length and depth, for every model with scores by depth; all models share one grid."""
    cells = {
        model: {
            (score.context_tokens, score.depth): score.value
            for score in contents.find_scores(task, model=model)
            if score.depth is not None
        }
        for model in contents.models
    }
    lengths = sorted({tokens for grid in cells.values() for tokens, _ in grid})
    depths = sorted({depth for grid in cells.values() for _, depth in grid})
    return [
        RetrievalMap(
            model,
            lengths,
            depths,
            np.array([[grid.get((tokens, depth), np.nan) for depth in depths] for tokens in lengths]),
        )
        for model, grid in cells.items()
        if grid
    ]


def turnings_of(contents: Contents) -> list[Turning]:
    """The frequencies of the pairs: in the base, and after each stage that changed them; the last one stands out.

    If layers differ, only the layers that a longer context changes are used. Empty before any stage is extended.
    """
    extended = [stage for stage in contents.stages if stage.positions]
    if not extended or contents.base_context_tokens is None:
        return []
    first = extended[0]
    turned = {"base": find_stretched(first.former).inv_freq_at(contents.base_context_tokens, first.rotary_dim)}
    for stage in extended:
        inv_freq = find_stretched(stage.positions).inv_freq_at(stage.reach_tokens, stage.rotary_dim)
        if not np.allclose(inv_freq, next(reversed(turned.values())), rtol=1e-9, atol=0):
            turned[f"stage {stage.number}"] = inv_freq
    *_, last = turned
    if len(turned) == 2:
        turned["extended"] = turned.pop(last)
        last = "extended"
    colours = choose_colours(list(turned), main=last if len(turned) > 1 else None)
    return [Turning(name, inv_freq, colours[name], name == last) for name, inv_freq in turned.items()]
