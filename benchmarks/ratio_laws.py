"""The laws that benchmarks/study_ratio.py fits to the ratio study, each judged on what it has not seen.

The D-CPT law of ropewalk, with all shares and without the share 0, where its term of the tokens is 0; and a law in
which the share matters only by the tokens of a kind that it gives.
"""

from collections.abc import Iterator
from statistics import fmean
from typing import Any

import numpy as np
from jaxtyping import Float64

from ropewalk.evaluate.held_out_fit import FitTest, judge
from ropewalk.evaluate.mix_law import FEWEST_BUDGETS, FEWEST_SHARES, fit_mix_law, hold_out_cells
from ropewalk.evaluate.separable_fit import Columns, Space, fit_one
from ropewalk.evaluate.study_fit import KINDS, Kind, collect_losses

Points = Float64[np.ndarray, "points"]
_OWN = Space(bounds=((0.01, 3.0), (0.05, 4.0)), free=(False, True), steps=24, near_steps=13)
"""a, in units of the smallest budget, and b of the law of own tokens."""


def without_share_zero(results: dict[str, Any], kind: Kind) -> dict[str, Any]:
    """The study without the arms that have none of this kind of text."""
    kept = [cell for cell in results["cells"] if cell["kind"] != "trained" or cell["shares"][kind] > 0]
    return {**results, "cells": kept}


def judge_own_tokens(results: dict[str, Any], kind: Kind) -> FitTest:
    """L = E + A / (r D + a)^b: the tokens of this kind that were read decide, not their share; judged like the laws."""
    share, tokens, losses = list_points(results, kind)
    read, held = share * tokens / tokens.min(), hold_out_cells(share, tokens)

    def terms_of(read: Points) -> Columns:
        def columns(grid: Float64[np.ndarray, "grid 2"]) -> Float64[np.ndarray, "grid points 2"]:
            law = (read[None] + grid[:, :1]) ** -grid[:, 1:]
            return np.stack([np.ones_like(law), law], axis=2)  # 2 x [grid, points] -> [grid, points, 2]

        return columns

    exponents, terms = fit_one(terms_of(read[~held]), losses[~held], _OWN)
    return judge(terms_of(read)(exponents[None])[0] @ terms, losses, held)


def list_points(results: dict[str, Any], kind: Kind) -> tuple[Points, Points, Points]:
    """Share, tokens and mean loss over the seeds of each mix and budget."""
    points, _ = collect_losses(results["cells"], results["roles"], kind)
    share, tokens = (np.array([key[place] for key in points], dtype=np.float64) for place in (0, 1))
    return share, tokens, np.array([fmean(values) for values in points.values()])


def judge_laws(results: dict[str, Any]) -> Iterator[tuple[str, Kind, dict[str, Any], FitTest]]:
    """(law, kind, the cells it was fitted to, test) of each law that has enough shares and budgets."""
    for kind in KINDS:
        for title, given in (("D-CPT", results), ("D-CPT without share 0", without_share_zero(results, kind))):
            share, tokens, losses = list_points(given, kind)
            if len(np.unique(share)) >= FEWEST_SHARES and len(np.unique(tokens)) >= FEWEST_BUDGETS:
                yield title, kind, given, fit_mix_law(share.tolist(), tokens.tolist(), losses.tolist()).held_out
        yield "own tokens", kind, results, judge_own_tokens(results, kind)
