"""The laws of a ratio study: general loss and domain loss by share and tokens, read from ``results.json``.

A loss is the mean over the held-out text of one role's sources in the mix, at the base's length. Each seed reads other
documents, so the loss of the base on the same documents is taken out seed by seed and its mean put back.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, median
from typing import Any, Literal

import numpy as np

from ropewalk.core.error import UserError
from ropewalk.core.read_json import read_written
from ropewalk.core.run_folder import RESULTS
from ropewalk.evaluate.compare_arms import Entry, find_base, values_of
from ropewalk.evaluate.mix_law import FEWEST_BUDGETS, FEWEST_SHARES, MixLaw, fit_mix_law, read_law
from ropewalk.evaluate.score import Interval

Kind = Literal["general", "domain"]
KINDS: tuple[Kind, ...] = ("general", "domain")
MIX_FIT = "mix-fit.json"
_GRID = 2001


@dataclass(frozen=True, slots=True)
class StudyFit:
    """The two laws, the base's losses, and the share of instruction text that the study had most often."""

    laws: Mapping[Kind, MixLaw]
    base: Mapping[Kind, float]
    """Nats of the unchanged base; empty where the study has none."""
    instruction: float
    model: str
    """The study's base, as its recipe names it."""

    def to_json(self) -> dict[str, Any]:
        laws = {kind: law.to_json() for kind, law in self.laws.items()}
        return {"laws": laws, "base": dict(self.base), "instruction": self.instruction, "model": self.model}


@dataclass(frozen=True, slots=True)
class CriticalShare:
    """The largest share of domain text that keeps a limit, with its interval; None where no measured share does."""

    share: Interval | None
    is_limited: bool
    """False where every measured share keeps the limit, so that the true one lies beyond."""


def read_study_fit(folder: str | None) -> StudyFit | None:
    """The laws of the ratio study in a folder; None without a folder. Raises UserError where it has no laws."""
    if folder is None:
        return None
    path = Path(folder) / MIX_FIT
    if not path.is_file():
        raise UserError(
            "the ratio study has no laws",
            where=f"mix_study: {folder}",
            why=f"there is no {path}: the study is not finished, or has fewer than {FEWEST_SHARES} shares at "
            f"{FEWEST_BUDGETS} budgets",
            fix="finish it with `ropewalk sweep` (recipes/study-ratio.yaml), or leave mix_study out",
        )
    return read_written(path, _parse_fit)


def _parse_fit(data: Any) -> StudyFit:
    laws = {kind: read_law(data["laws"][kind]) for kind in KINDS}
    base = {kind: float(data["base"][kind]) for kind in KINDS if kind in data["base"]}
    return StudyFit(laws, base, float(data["instruction"]), str(data["model"]))


def fit_study(results: Mapping[str, Any]) -> StudyFit:
    """Fit both laws to the trained cells of a study. Raises UserError where it has too few shares or budgets."""
    cells: Sequence[Entry] = results["cells"]
    if not all("shares" in cell for cell in cells):
        raise UserError(
            "the study does not tell the shares of its arms",
            where=RESULTS,
            why="it was written by an older version",
            fix="run `ropewalk sweep` on the study again: measured cells are kept",
        )
    roles: Mapping[str, str] = results["roles"]
    laws, base = dict[Kind, MixLaw](), dict[Kind, float]()
    for kind in KINDS:
        points, middle = collect_losses(cells, roles, kind)
        shares, tokens = ([key[number] for key in points] for number in (0, 1))
        law = fit_mix_law(shares, tokens, [fmean(losses) for losses in points.values()])
        repeats = fmean(map(len, points.values()))  # a point is a mean over seeds, and a run is one seed
        laws[kind] = replace(law, noise=law.noise * math.sqrt(repeats))
        if middle is not None:
            base[kind] = middle
    instruction = median(cell["shares"]["instruction"] for cell in cells if cell["kind"] == "trained")
    return StudyFit(laws, base, instruction, results["model"])


def collect_losses(
    cells: Sequence[Entry], roles: Mapping[str, str], kind: Kind
) -> tuple[dict[tuple[float, float], list[float]], float | None]:
    """(share, tokens) -> the loss of each seed in nats, without what its documents add; and the base's mean loss.

    The base is None where the study has none; then nothing is taken out.
    """
    of_base = [loss for cell in cells if cell["kind"] == "base" if (loss := role_loss(cell, roles, kind))]
    middle = fmean(of_base) if of_base else None
    points: dict[tuple[float, float], list[float]] = defaultdict(list)
    for cell in cells:
        loss = role_loss(cell, roles, kind)
        if cell["kind"] == "trained" and loss is not None:
            its = find_base(cell, cells)
            shift = (role_loss(its, roles, kind) or 0.0) - (middle or 0.0) if its is not None else 0.0
            points[cell["shares"][kind], cell["tokens"]].append(loss - shift)
    return points, middle


def role_loss(cell: Entry, roles: Mapping[str, str], role: str) -> float | None:
    """Mean loss in nats on the held-out text of a role's sources at the base's length; None where it has none."""
    found = [
        value
        for (task, _), value in values_of(cell).items()
        if task.startswith("short/") and roles.get(task.removeprefix("short/")) == role
    ]
    return fmean(found) if found else None


def find_critical(fit: StudyFit, *, limit: float, tokens: float) -> CriticalShare:
    """The largest share of domain text up to which the general loss stays at most ``limit`` nats at this budget.

    The rest of the mix is general text, beside the study's share of instruction text.
    """
    law, domain = fit.laws["general"], fit.laws["domain"]
    low = max(domain.shares[0], 1 - fit.instruction - law.shares[1])
    high = min(domain.shares[1], 1 - fit.instruction - law.shares[0])
    shares = np.linspace(low, max(low, high), _GRID)
    keeps = law.predict_all(1 - fit.instruction - shares, tokens) <= limit
    last = np.where(keeps.all(axis=1), _GRID - 1, keeps.argmin(axis=1) - 1)  # -1: not even the smallest share
    if last[0] < 0:
        return CriticalShare(None, True)
    found = shares[np.maximum(last, 0)]
    ends = np.percentile(found[1:], (2.5, 97.5))
    value = float(found[0])
    interval = value, min(value, float(ends[0])), max(value, float(ends[1]))
    return CriticalShare(interval, bool(last[0] < _GRID - 1))


def find_measured(results: Mapping[str, Any], *, limit: float, tokens: float) -> tuple[float | None, float]:
    """(smallest share of general text, budget): without a law, what the measured mixes themselves say of a limit.

    With this share or more, each seed of each measured mix kept the general loss at most ``limit`` nats, at the
    measured budget nearest to ``tokens``. The share is None where not even the largest one did.
    """
    points, _ = collect_losses(results["cells"], results["roles"], "general")
    budget = min({budget for _, budget in points}, key=lambda each: abs(math.log(each / tokens)))
    kept = None
    for share in sorted((share for share, its in points if its == budget), reverse=True):
        if max(points[share, budget]) > limit:
            break
        kept = share
    return kept, budget


def tell_laws(fit: StudyFit) -> Iterator[str]:
    """One line for each law."""
    for kind, law in fit.laws.items():
        low, high = law.shares
        yield f"{kind} loss, shares {low:.0%} to {high:.0%}: {law.held_out.text}"


def is_ratio_study(results: Mapping[str, Any]) -> bool:
    """True if the study has the shares and budgets that the laws need."""
    trained = [cell for cell in results["cells"] if cell["kind"] == "trained"]
    shares = {cell["shares"]["domain"] for cell in trained}
    return len(shares) >= FEWEST_SHARES and len({cell["tokens"] for cell in trained}) >= FEWEST_BUDGETS


def is_accepted(fit: StudyFit) -> bool:
    """True if both laws predict what was held out."""
    return all(law.held_out.is_accepted for law in fit.laws.values())
