"""A measure of one model against its bound, and the words and the table that tell it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ropewalk.report.contents import MODELS
from ropewalk.report.table import Mark, Table, TableCell

Sense = Literal[">=", "<="]
Unit = Literal["share", "nats", "change"]
Outcome = Literal["met", "missed", "undecided"]
_WORDS: dict[Outcome, tuple[str, Mark]] = {
    "met": ("pass", "pass"),
    "missed": ("FAIL", "fail"),
    "undecided": ("undecided", "open"),
}
_AIMS: dict[Outcome, str] = {"met": "aim reached", "missed": "aim missed", "undecided": "aim undecided"}


@dataclass(frozen=True, slots=True)
class Verdict:
    """A measure of one model, with its 95 % interval if there is one, against a bound if there is one.

    ``key`` is the name for programs (``retrieval/4x``), ``name`` the one for people. An ``aim`` is reported, but it
    never fails. ``samples`` is the number of documents or prompts behind the interval.
    """

    key: str
    name: str
    model: str
    unit: Unit
    value: float
    low: float | None = None
    high: float | None = None
    bound: tuple[str, float] | None = None
    aim: bool = False
    samples: int | None = None

    @property
    def outcome(self) -> Outcome | None:
        """The outcome; None without a target. If no interval is known, the value alone decides."""
        if self.bound is None:
            return None
        sense, limit = self.bound
        ends = [self.value] if self.low is None or self.high is None else [self.low, self.high]
        held = {end >= limit if sense == ">=" else end <= limit for end in ends}
        return "undecided" if len(held) == 2 else "met" if held == {True} else "missed"

    @property
    def met(self) -> bool | None:
        """True if the target is proven to be met; None without a target."""
        return None if self.bound is None else self.outcome == "met"

    @property
    def has_interval(self) -> bool:
        """True for a finite interval; a single document gives an infinite one."""
        return self.low is not None and self.high is not None and math.isfinite(self.high - self.low)

    def to_json(self) -> dict[str, object]:
        """A flat record for programs."""
        sense, limit = self.bound or (None, None)
        return {
            "key": self.key,
            "model": self.model,
            "value": self.value,
            "low": self.low if self.has_interval else None,
            "high": self.high if self.has_interval else None,
            "unit": self.unit,
            "sense": sense,
            "bound": limit,
            "aim": self.aim,
            "samples": self.samples,
            "met": self.met,
            "outcome": self.outcome,
        }


@dataclass(frozen=True, slots=True)
class RelativeChange:
    """A relative change, 0.01 for 1 % more, with its 95 % interval if it was measured in pairs."""

    value: float
    low: float | None = None
    high: float | None = None
    samples: int | None = None


def find_outcomes(verdicts: Sequence[Verdict]) -> dict[Outcome, list[Verdict]]:
    """The targets that are met, missed and undecided; aims are left out."""
    found: dict[Outcome, list[Verdict]] = {"met": [], "missed": [], "undecided": []}
    for verdict in verdicts:
        if verdict.outcome is not None and not verdict.aim:
            found[verdict.outcome].append(verdict)
    return found


def verdict_table(verdicts: Sequence[Verdict], *, intervals: bool, caption: str = "") -> Table:
    """One line per measure, the models side by side, each with its target and the outcome."""
    models = [model for model in MODELS if any(verdict.model == model for verdict in verdicts)]
    targets = {model: any(v.bound for v in verdicts if v.model == model) for model in models}
    columns = ["measure"]
    for model in models:
        columns += [model, "target"] if targets[model] else [model]
    rows: list[list[str | TableCell]] = []
    for key in dict.fromkeys(verdict.key for verdict in verdicts):
        line = {verdict.model: verdict for verdict in verdicts if verdict.key == key}
        row: list[str | TableCell] = [next(iter(line.values())).name]
        for model in models:
            found = line.get(model)
            # A page wraps the interval to a second line (page.html); a table of text has no intervals.
            row.append(format_value(found, interval=intervals).replace(" [", "\n[") if found else "")
            if targets[model]:
                row.append(_target_cell(found))
        rows.append(row)
    align = "".join("r" if column in models else "l" for column in columns)
    return Table(columns, rows, align, caption)


def format_value(verdict: Verdict, *, interval: bool) -> str:
    """A value in its unit: ``98.2 %``, ``+0.031 nats``, ``+0.4 %``; with its interval and n if there is one."""
    # z: a value that rounds to 0 gets no minus sign
    scale, form = (1.0, "+z.3f") if verdict.unit == "nats" else (100.0, "z.1f" if verdict.unit == "share" else "+z.1f")
    text = f"{verdict.value * scale:{form}} {'nats' if verdict.unit == 'nats' else '%'}"
    if not interval:
        return text
    samples = "" if verdict.samples is None else f", n = {verdict.samples:,}"
    if not verdict.has_interval:
        return f"{text}{samples}"
    low, high = (f"{(end or 0.0) * scale:{form}}" for end in (verdict.low, verdict.high))
    return f"{text} [{low}, {high}]{samples}"


def format_bound(verdict: Verdict) -> str:
    """The bound as text: ``≥ 95 %``, ``≤ 0.05 nats``, ``≤ +2 %``; empty without a target."""
    if verdict.bound is None:
        return ""
    sense, limit = verdict.bound
    sign = {">=": "≥", "<=": "≤"}[sense]
    figure = {"share": f"{limit * 100:g} %", "nats": f"{limit:g} nats", "change": f"{limit * 100:+g} %"}[verdict.unit]
    return f"{sign} {figure}"


def _target_cell(verdict: Verdict | None) -> TableCell:
    if verdict is None or verdict.outcome is None:
        return TableCell("")
    word = _AIMS[verdict.outcome] if verdict.aim else _WORDS[verdict.outcome][0]
    return TableCell(f"{word}, {format_bound(verdict)}", mark_of(verdict))


def mark_of(verdict: Verdict) -> Mark:
    """The mark that decides the verdict's colour on the page."""
    return "" if verdict.outcome is None else "aim" if verdict.aim else _WORDS[verdict.outcome][1]
