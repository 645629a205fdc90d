"""The Pareto picture of a study: far loss against short-context loss, and against the cost of training.

A filled mark is a trained arm, a hollow one the same arm before training; a ring marks the arms that no other arm at
the same axis values beats in far loss, short-context loss and cost together.
"""

import math
from collections.abc import Sequence
from typing import Any

from ropewalk.core.quantity import format_amount
from ropewalk.evaluate.compare_arms import ArmOutcome
from ropewalk.report.figure import EXTENDED, FAINT, INK, OTHERS, draw_picture, shorten

_COLOURS = (EXTENDED, *OTHERS)
_NAMED = 12
"""With more arms their names would lie on each other, so only the best are named."""


def draw_outcomes(outcomes: Sequence[ArmOutcome]) -> str:
    """The picture as one SVG file. What was not measured has no mark."""

    def paint(figure: Any) -> None:
        far_short, far_cost = figure.subplots(1, 2, sharey=True)
        colours = _assign_colours(outcomes)
        for outcome in outcomes:
            short = 100 * outcome.short[0]
            for axis, across in ((far_short, short), (far_cost, outcome.cost)):
                if not math.isnan(across + outcome.far[0]):
                    _mark(axis, across, outcome, colours[outcome.arm], names=len(outcomes) <= _NAMED or outcome.best)
        far_short.set(xlabel="short-context loss against the base, %", ylabel="far loss, nats")
        far_cost.set(xlabel="training FLOPs")
        far_cost.xaxis.set_major_formatter(lambda value, _: format_amount(value))

    alt = "; ".join(f"{_name(each)}: far loss {each.far[0]:.4f} nats, {each.cost:.3g} FLOPs" for each in outcomes)
    return draw_picture(paint, size=(9.6, 4.2), caption="Pareto", alt=alt).svg + "\n"


def _assign_colours(outcomes: Sequence[ArmOutcome]) -> dict[str, str]:
    arms = dict.fromkeys(outcome.arm for outcome in outcomes)
    return {arm: _COLOURS[number % len(_COLOURS)] for number, arm in enumerate(arms)}


def _name(outcome: ArmOutcome) -> str:
    return " ".join([outcome.kind, *outcome.choices, outcome.arm])


def _mark(axis: Any, across: float, outcome: ArmOutcome, colour: str, *, names: bool) -> None:
    trained = outcome.kind == "trained"
    far, low, high = outcome.far
    if math.isfinite(high - low):
        axis.plot((across, across), (low, high), color=colour, alpha=0.45, linewidth=2)
    axis.plot(across, far, marker="o", markersize=6, color=colour if trained else "white", markeredgecolor=colour)
    if outcome.best:
        axis.plot(across, far, marker="o", markersize=11, fillstyle="none", color=INK, markeredgewidth=0.9)
    if names:
        label = shorten(" ".join([outcome.arm, *outcome.choices]))
        axis.annotate(label, (across, far), xytext=(7, 4), textcoords="offset points", fontsize=8, color=FAINT)
