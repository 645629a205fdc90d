"""What a run must show, line by line, and whether it did.

Longer context is proven by four measures: retrieval at the old length (nothing lost), at the new (gained), beyond
(reported), loss at far positions no worse than at near ones, and held-out text no harder than before. The surprise:
the packaged base has bounds of its own. A base that already does at 4x what it should not would prove nothing.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from ropewalk.core.quantity import format_length
from ropewalk.core.record import Score
from ropewalk.report.contents import Contents
from ropewalk.report.table import Cell, Table

RETRIEVAL = "retrieval/key_value"
PARITY = 1e-5
"""Largest norm-relative difference of logits between the export and plain transformers."""

_TINY_BASE_RETRIEVAL = {1: (">=", 0.95), 4: ("<=", 0.65), 8: ("<=", 0.50)}
_TINY_BASE_GAP = (">=", 0.2)
_GAP = ("<=", 0.05)
_SHORT = ("<=", 0.02)

Sense = Literal[">=", "<="]
Unit = Literal["share", "nats", "change"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """A measure of one model, with its 95 % interval where there is one, against a bound where there is one.

    ``key`` names it for machines (``retrieval/4x``), ``name`` for people. An ``aim`` is reported and fails nothing.
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

    @property
    def met(self) -> bool | None:
        """None where nothing is asked."""
        if self.bound is None:
            return None
        sense, limit = self.bound
        return self.value >= limit if sense == ">=" else self.value <= limit

    @property
    def has_interval(self) -> bool:
        """False also where one document was all there is, and the interval is infinite."""
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
            "met": self.met,
        }


@dataclass(frozen=True, slots=True)
class Change:
    """A relative change, 0.01 for 1 % more, with its 95 % interval where it was measured in pairs."""

    value: float
    low: float | None = None
    high: float | None = None


def judge(contents: Contents) -> list[Verdict]:
    """Every measure that the run's scores allow, in the order of the summary."""
    if not contents.scores or contents.base_context_tokens is None:
        return []
    return [*_judge_retrieval(contents), *_judge_gap(contents), *_judge_short(contents)]


def count_met(verdicts: Sequence[Verdict]) -> tuple[int, int]:
    """(targets met, targets set); aims are not counted."""
    asked = [verdict.met for verdict in verdicts if verdict.met is not None and not verdict.aim]
    return sum(asked), len(asked)


def verdict_table(verdicts: Sequence[Verdict], *, intervals: bool) -> Table:
    """One line per measure, base and extended side by side, each with its target and whether it is met."""
    models = [model for model in ("base", "extended") if any(verdict.model == model for verdict in verdicts)]
    targets = {model: any(v.bound for v in verdicts if v.model == model) for model in models}
    columns = ["measure"]
    for model in models:
        columns += [model, "target"] if targets[model] else [model]
    rows: list[list[str | Cell]] = []
    for key in dict.fromkeys(verdict.key for verdict in verdicts):
        line = {verdict.model: verdict for verdict in verdicts if verdict.key == key}
        row: list[str | Cell] = [next(iter(line.values())).name]
        for model in models:
            found = line.get(model)
            row.append(format_value(found, interval=intervals) if found else "")
            if targets[model]:
                row.append(_target_cell(found))
        rows.append(row)
    align = "".join("r" if column in models else "l" for column in columns)
    return Table(columns, rows, align)


def format_value(verdict: Verdict, *, interval: bool) -> str:
    """A value in its unit: ``98.2 %``, ``+0.031 nats``, ``+0.4 %``; with its interval where there is one."""
    # z: what rounds to 0 has no minus
    scale, form = (1.0, "+z.3f") if verdict.unit == "nats" else (100.0, "z.1f" if verdict.unit == "share" else "+z.1f")
    text = f"{verdict.value * scale:{form}} {'nats' if verdict.unit == 'nats' else '%'}"
    if not interval or not verdict.has_interval:
        return text
    low, high = (f"{(end or 0.0) * scale:{form}}" for end in (verdict.low, verdict.high))
    return f"{text} [{low}, {high}]"


def format_bound(verdict: Verdict) -> str:
    """``≥ 95 %``, ``≤ 0.05 nats``, ``≤ +2 %``; empty where nothing is asked."""
    if verdict.bound is None:
        return ""
    sense, limit = verdict.bound
    sign = {">=": "≥", "<=": "≤"}[sense]
    figure = {"share": f"{limit * 100:g} %", "nats": f"{limit:g} nats", "change": f"{limit * 100:+g} %"}[verdict.unit]
    return f"{sign} {figure}"


def _target_cell(verdict: Verdict | None) -> Cell:
    if verdict is None or verdict.met is None:
        return Cell("")
    if verdict.aim:
        return Cell(f"{'aim reached' if verdict.met else 'aim missed'}, {format_bound(verdict)}", "aim")
    return Cell(f"{'pass' if verdict.met else 'FAIL'}, {format_bound(verdict)}", "pass" if verdict.met else "fail")


def _judge_retrieval(contents: Contents) -> Iterator[Verdict]:
    base_tokens = contents.base_context_tokens
    assert base_tokens is not None
    trained_tokens = contents.context_tokens
    whole = {
        (score.model, score.context_tokens): score
        for score in contents.scores
        if score.task == RETRIEVAL and score.depth is None
    }
    lengths = sorted({tokens for _, tokens in whole})
    stretched = trained_tokens > base_tokens
    chosen = [tokens for tokens in lengths if tokens in (base_tokens, trained_tokens)]
    chosen += [tokens for tokens in lengths[-1:] if tokens > trained_tokens and stretched]
    for tokens in chosen:
        multiple = tokens / base_tokens
        never = ", never trained" if tokens > trained_tokens else ""
        name = f"retrieval at {multiple:g}x ({format_length(tokens)}{never})"
        for model in contents.models:
            if (score := whole.get((model, tokens))) is None:
                continue
            bound: tuple[str, float] | None = (">=", 0.90 if never else 0.95)
            if model == "base":
                bound = _TINY_BASE_RETRIEVAL.get(int(multiple)) if contents.is_tiny_base else None
            yield Verdict(
                f"retrieval/{multiple:g}x", name, model, "share", score.value, score.low, score.high, bound,
                aim=bool(never) and model == "extended",
            )  # fmt: skip


def _judge_gap(contents: Contents) -> Iterator[Verdict]:
    base_tokens = contents.base_context_tokens
    assert base_tokens is not None
    for model in contents.models:
        if contents.context_tokens <= base_tokens:
            return
        found = _find_gap(contents, model, base_tokens)
        if found is None:
            continue
        tokens, value, low, high = found
        name = f"loss, last quarter of {tokens / base_tokens:g}x minus that of 1x"
        bound: tuple[str, float] | None = _GAP
        if model == "base":
            bound = _TINY_BASE_GAP if contents.is_tiny_base else None
        yield Verdict("nll/gap", name, model, "nats", value, low, high, bound)


def _find_gap(contents: Contents, model: str, base_tokens: int) -> tuple[int, float, float | None, float | None] | None:
    """(far length, difference, its interval): as measured in pairs where that was done, else from the buckets."""
    measured = contents.find_scores("nll/gap", model=model)
    if measured:
        score = measured[-1]
        return score.context_tokens, score.value, score.low, score.high
    buckets = position_buckets(contents, model)
    reached = [end for _, end, _ in buckets if base_tokens < end <= contents.context_tokens]
    if not reached:
        return None
    near = _mean_over(buckets, base_tokens * 3 // 4, base_tokens)
    far = _mean_over(buckets, max(reached) * 3 // 4, max(reached))
    return None if near is None or far is None else (max(reached), far - near, None, None)


def position_buckets(contents: Contents, model: str) -> list[tuple[int, int, Score]]:
    """(first position, end, score) of each bucket of loss by position, in order."""
    found = []
    for score in contents.find_scores("nll/position/", model=model):
        first, _, end = score.task.removeprefix("nll/position/").partition("-")
        if first.isdigit() and end.isdigit() and math.isfinite(score.value):
            found.append((int(first), int(end), score))
    return sorted(found, key=lambda bucket: bucket[:2])


def _mean_over(buckets: Sequence[tuple[int, int, Score]], first: int, end: int) -> float | None:
    """The mean loss of positions [first, end), or None unless whole buckets cover them."""
    inside = [(low, high, score) for low, high, score in buckets if first <= low and high <= end]
    tokens = sum(score.n for *_, score in inside)
    if not tokens or sum(high - low for low, high, _ in inside) != end - first:
        return None
    return sum(score.value * score.n for *_, score in inside) / tokens


def short_changes(contents: Contents) -> dict[str, Change]:
    """How the held-out loss at the short context changed, by source: as measured in pairs, else from the two losses."""
    measured = contents.find_scores("change/short/", model="extended")
    if measured:
        return {
            score.task.removeprefix("change/short/"): Change(score.value, score.low, score.high) for score in measured
        }
    before = {score.task: score.value for score in contents.find_scores("short/", model="base")}
    after = contents.find_scores("short/", model="extended")
    pairs = [(score.task.removeprefix("short/"), score.value, before.get(score.task)) for score in after]
    return {name: Change(value / base - 1) for name, value, base in pairs if base}


def _judge_short(contents: Contents) -> Iterator[Verdict]:
    changes = short_changes(contents)
    if not changes:
        return
    worst = max(changes, key=lambda name: changes[name].value)
    change, mean = changes[worst], sum(change.value for change in changes.values()) / len(changes)
    name = f"short-context loss, worst source ({worst})"
    yield Verdict("short/worst", name, "extended", "change", change.value, change.low, change.high, _SHORT)
    name = f"short-context loss, mean of {len(changes)} source{'s' * (len(changes) > 1)}"
    yield Verdict("short/mean", name, "extended", "change", mean, bound=_SHORT)
