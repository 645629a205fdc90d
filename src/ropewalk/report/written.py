"""The section about what models wrote: RULER and published benchmarks by length, all models side by side."""

from ropewalk.core.quantity import format_length
from ropewalk.core.record import Score
from ropewalk.report.contents import Contents
from ropewalk.report.section import Section
from ropewalk.report.table import Table

_KINDS = {"ruler/": "RULER: share of references in the written text.", "benchmark/": "Benchmarks on your files."}


def make_written(contents: Contents) -> Section | None:
    """One table of RULER and one of benchmarks, a line for each task and length; None where nothing was written."""
    tables = [table for kind, caption in _KINDS.items() if (table := _tabulate(contents, kind, caption)) is not None]
    if not tables:
        return None
    lead = "Models write greedily. In brackets the 95 % interval; cut is the share of prompts that were too long."
    return Section("written", "Written answers", lead, tables)


def _tabulate(contents: Contents, kind: str, caption: str) -> Table | None:
    models = contents.models
    found = {
        (score.task, score.context_tokens, model): score
        for model in models
        for score in contents.find_scores(kind, model=model)
    }
    lines = dict.fromkeys((task, tokens) for task, tokens, _ in found)
    if not lines:
        return None
    rows = []
    for task, tokens in lines:
        scores = {model: found.get((task, tokens, model)) for model in models}
        asked = max(score.n for score in scores.values() if score is not None)
        row = [task.removeprefix(kind), format_length(tokens), f"{asked:,}"]
        rows.append([*row, *("" if score is None else _tell(score) for score in scores.values())])
    return Table(["task", "context", "n", *models], rows, "lrr" + "r" * len(models), caption)


def _tell(score: Score) -> str:
    """A share in percent, a length in tokens, with its interval in a second line of the cell."""
    if score.metric == "tokens":
        value, low, high = (format_length(int(each)) for each in (score.value, score.low, score.high))
        return f"{value}\n[{low}, {high}]"
    text = f"{score.value * 100:.1f} %"
    return text if score.low == score.high else f"{text}\n[{score.low * 100:.1f}, {score.high * 100:.1f}]"
