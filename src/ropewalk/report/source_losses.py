"""Sections about the loss at the base's own context by source: of the mix, and of text outside of it."""

import math
from collections.abc import Mapping

from ropewalk.core.quantity import format_amount
from ropewalk.report.charts import draw_changes
from ropewalk.report.contents import Contents
from ropewalk.report.section import Section
from ropewalk.report.table import Table
from ropewalk.report.target import RelativeChange
from ropewalk.report.verdict import FOREIGN_LIMIT, SHORT_LIMIT, read_changes, short_changes


def make_short(contents: Contents) -> Section:
    """Held-out loss at the base's own context, by source."""
    title, changes = "Short context", short_changes(contents)
    table = _tabulate(contents, "short/", changes, "Held-out loss at the base's context, nats per token.")
    if table is None:
        return Section("short", title, note="Loss at the short context has not been measured yet.")
    bars = {name: (change.value, *_interval(change)) for name, change in changes.items()}
    return Section("short", title, "", [table], [draw_changes(bars, limit=SHORT_LIMIT)] if bars else [])


def make_forgetting(contents: Contents) -> Section | None:
    """Loss on text outside the mix and on short abilities; None where none was asked for."""
    captions = {
        "foreign": "Loss on text that no source of the mix has.",
        "ability": "Loss of the answers to sums and to facts to complete.",
    }
    tables = [
        _tabulate(contents, f"{kind}/", read_changes(contents, kind), caption) for kind, caption in captions.items()
    ]
    found = [table for table in tables if table is not None]
    if not found:
        return None
    lead = (
        "Held-out text of the mix gets easier by training, so it hides what the model forgot. These texts are never "
        f"trained on; in the worst of them the loss may rise by {FOREIGN_LIMIT:.0%}. A text on which the base is worse "
        "than a uniform guess decides nothing. Nats per token at the base's context; change of extended against base."
    )
    if read_changes(contents, "foreign") and not contents.find_scores("change/foreign_worst", model="extended"):
        lead += " That holds for every text here, so there is no verdict on forgetting."
    return Section("forgetting", "Forgetting", lead, found)


def _tabulate(contents: Contents, kind: str, changes: Mapping[str, RelativeChange], caption: str) -> Table | None:
    """Losses of all models by source, with the changes of the trained one; None where nothing was measured."""
    models = contents.models
    found = {model: {score.task: score for score in contents.find_scores(kind, model=model)} for model in models}
    tasks = list(dict.fromkeys(task for scores in found.values() for task in scores))
    if not tasks:
        return None
    columns = ["source", "tokens", "documents", *models, *(["change", "95 % interval"] if changes else [])]
    rows = []
    for task in tasks:
        name = task.removeprefix(kind)
        one = next(scores[task] for scores in found.values() if task in scores)
        losses = [f"{found[model][task].value:.4f}" if task in found[model] else "" for model in models]
        amounts = [format_amount(one.n), count_samples(one.samples)]
        rows.append([name, *amounts, *losses, *(_describe_change(changes.get(name)) if changes else [])])
    return Table(columns, rows, "l" + "r" * (len(columns) - 1), caption)


def _describe_change(change: RelativeChange | None) -> list[str]:
    if change is None:
        return ["", ""]
    low, high = _interval(change)
    return [f"{change.value * 100:+z.2f} %", f"{low * 100:+z.2f} to {high * 100:+z.2f}" if low < high else ""]


def count_samples(samples: int | None) -> str:
    """The number of documents or prompts; empty for scores of an older version."""
    return "" if samples is None else f"{samples:,}"


def _interval(change: RelativeChange) -> tuple[float, float]:
    """The interval, or the value twice if there is no interval or it is infinite."""
    if change.low is None or change.high is None or not math.isfinite(change.high - change.low):
        return change.value, change.value
    return change.low, change.high
