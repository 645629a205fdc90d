"""``ropewalk recommend-mix``: the largest share of domain text that keeps a limit, by the laws of a ratio study."""

import math
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ropewalk.core.error import UserError
from ropewalk.core.quantity import format_amount, parse_count
from ropewalk.core.read_json import read_written
from ropewalk.core.run_folder import RESULTS
from ropewalk.evaluate.score import Interval
from ropewalk.evaluate.study_fit import Kind, StudyFit, find_critical, find_measured, fit_study, is_accepted, tell_laws
from ropewalk.recipe.named import is_recipe
from ropewalk.recipe.sweep import load_sweep

_LIMIT = re.compile(r"general_loss<=([+-]?\d+(?:\.\d+)?)(%?)")


def recommend_mix(study: Path, limit: str, *, tokens: str | None = None) -> dict[str, Any]:
    """The critical share of domain text under ``limit``, such as ``general_loss<=+1%``, with a 95 % interval.

    ``tokens`` is the budget; by default the largest that was measured. Raises UserError where the limit cannot be read,
    the laws do not predict what was held out, or the answer would lie outside of what was measured.
    """
    found = find_results(study)
    results = read_written(found, _require_cells)
    fit = fit_study(results)
    told = list(tell_laws(fit))
    nats, budget = read_limit(limit, fit), _read_budget(tokens, fit)
    if not is_accepted(fit):
        raise UserError(
            "the laws do not predict what was held out, so there is no recommendation",
            where=str(found),
            why="; ".join(told),
            fix="add seeds, or budgets and shares nearer to the one that you want to know; "
            + _tell_measured(*find_measured(results, limit=nats, tokens=budget)),
        )
    critical = find_critical(fit, limit=nats, tokens=budget)
    if critical.share is None:
        low = fit.laws["domain"].shares[0]
        raise UserError(
            "no measured share keeps this limit",
            where=limit,
            why=f"the general loss is above {nats:.4f} nats with {low:.1%} domain text after "
            f"{format_amount(budget)} tokens already",
            fix="allow a higher general loss, fewer tokens (--tokens), or a lower learning rate",
        )
    low = critical.share[1]  # of the mix that is recommended
    expected: dict[str, Any] = {kind: _expect(fit, kind, low, budget) for kind in fit.laws}
    return {
        "share": critical.share,
        "is_limited": critical.is_limited,
        "tokens": budget,
        "limit_nats": nats,
        "instruction": fit.instruction,
        "expected": expected,
        "laws": {kind: asdict(law.held_out) for kind, law in fit.laws.items()},
        "text": "\n".join([*_tell(critical.share, critical.is_limited, limit, budget, fit, expected), *told]),
    }


def _require_cells(results: dict[str, Any]) -> dict[str, Any]:
    """``results`` of a study. Raises KeyError for any other JSON."""
    return {**results, "cells": results["cells"]}


def _tell_measured(share: float | None, budget: float) -> str:
    """What the mixes that were measured say of the limit."""
    if share is None:
        return f"after {format_amount(budget)} tokens, no measured mix kept the limit in every seed"
    return (
        f"after {format_amount(budget)} tokens, the measured mixes with {share:.0%} general text or more kept the "
        "limit in every seed"
    )


def find_results(study: Path) -> Path:
    """The ``results.json`` of a study, given as its file, its folder, or the results themselves."""
    folder = study
    if is_recipe(study):
        folder = Path(load_sweep(study)[0].study)
    found = folder if folder.suffix == ".json" else folder / RESULTS
    if not found.is_file():
        raise UserError(
            "the study has no results yet",
            where=str(found),
            why="there is no such file",
            fix="run `ropewalk sweep STUDY.yaml` to its end, and give its file or its folder",
        )
    return found


def read_limit(limit: str, fit: StudyFit) -> float:
    """The limit in nats. ``+1%`` is against the unchanged base; without a % it is nats."""
    match = _LIMIT.fullmatch(limit.replace(" ", ""))
    if match is None:
        raise UserError(
            f"{limit!r} is not a limit",
            where="the command line",
            why="it must say general_loss, <= and a number",
            fix="write 'general_loss<=+1%' in quotes: at most 1 % above the base; or 'general_loss<=2.35' in nats",
        )
    value = float(match[1])
    if not match[2]:
        return value
    if "general" not in fit.base:
        raise UserError(
            "the study has no base to compare with",
            where=limit,
            why="its cells have no unchanged base, so a change in per cent has no meaning",
            fix="write base: true in the study and run it again, or give the limit in nats",
        )
    return fit.base["general"] * (1 + value / 100)


def _read_budget(tokens: str | None, fit: StudyFit) -> float:
    low, high = fit.laws["general"].tokens
    if tokens is None:
        return high
    try:
        budget = parse_count(tokens)
    except ValueError as error:
        raise UserError(
            f"{tokens!r} is not a number of tokens", where="--tokens", why=str(error), fix="write it as 20M or 2B"
        ) from None
    if not low <= budget <= high:
        raise UserError(
            f"{format_amount(budget)} tokens lie outside of what was measured",
            where="--tokens",
            why=f"the study has budgets from {format_amount(low)} to {format_amount(high)} tokens",
            fix="choose a budget in this range, or add one to the study",
        )
    return budget


def _expect(fit: StudyFit, kind: Kind, share: float, budget: float) -> dict[str, Any]:
    """The loss that the law predicts at the recommended mix, and its change against the base."""
    own = share if kind == "domain" else 1 - fit.instruction - share
    nats = fit.laws[kind].predict(own, budget)
    base = fit.base.get(kind)
    change = tuple(value / base - 1 for value in nats) if base else (math.nan,) * 3
    return {"share": own, "nats": nats, "change": change}


def _tell(
    share: Interval, is_limited: bool, limit: str, budget: float, fit: StudyFit, expected: dict[str, Any]
) -> list[str]:
    value, low, high = share
    more = "" if is_limited else ", the largest measured share: a larger one may keep the limit, too"
    lines = [f"domain text: at most {value:.1%} [{low:.1%}, {high:.1%}] of {format_amount(budget)} tokens{more}"]
    weights = [100 * max(0.0, part) for part in (1 - fit.instruction - low, low, fit.instruction)]
    lines.append(
        f"mix for the low end of the interval ({limit}): {{general: {weights[0]:.1f}, domain: {weights[1]:.1f}, "
        f"instruction: {weights[2]:.1f}}}"
    )
    for kind, each in expected.items():
        change, nats = each["change"], each["nats"]
        against = (
            "" if math.isnan(change[0]) else f", {change[0]:+.2%} [{change[1]:+.2%}, {change[2]:+.2%}] of the base"
        )
        lines.append(f"{kind} loss there: {nats[0]:.4f} nats [{nats[1]:.4f}, {nats[2]:.4f}]{against}")
    return lines
