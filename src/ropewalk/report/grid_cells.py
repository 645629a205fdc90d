"""The section about position x filler x length: a heat map for each task, and its cells with their intervals."""

from collections.abc import Sequence

from ropewalk.core.quantity import format_length
from ropewalk.core.record import Score
from ropewalk.report.charts import draw_grid
from ropewalk.report.contents import Contents
from ropewalk.report.measures import retrieval_maps
from ropewalk.report.section import Section
from ropewalk.report.table import Table

_GRID, _LOSS = "grid/", "answer_loss/grid/"


def make_grid(contents: Contents) -> Section | None:
    """All cells of all models; None where no grid was measured."""
    names = sorted({score.task for score in contents.scores if score.task.startswith(_GRID)})
    tasks: dict[str, list[str]] = {}
    for name in names:
        tasks.setdefault(name.removeprefix(_GRID).partition("/")[0], []).append(name)
    if not tasks:
        return None
    pictures = [
        draw_grid(
            {_tell_filler(name): retrieval_maps(contents, name) for name in each},
            trained_tokens=contents.context_tokens,
            task=task.replace("_", " "),
        )
        for task, each in tasks.items()
    ]
    lead = (
        "The same facts, questions and answers in every cell of a task and length: along a row only the position of "
        "the fact differs, between fillers only the text around it."
    )
    tables = [_tabulate_rows(contents, names), _tabulate_cells(contents, names)]
    return Section("grid", "Position, filler and length", lead, tables, pictures)


def _tabulate_rows(contents: Contents, names: Sequence[str]) -> Table:
    """A line for each task, filler and length: all depths together, with the answer loss, all models side by side."""
    rows = []
    for name in names:
        found = {model: _by_length(contents.find_scores(name, model=model)) for model in contents.models}
        losses = {
            model: _by_length(contents.find_scores(name.replace(_GRID, _LOSS, 1), model=model)) for model in found
        }
        for tokens in sorted({tokens for scores in found.values() for tokens in scores}):
            samples = max(scores[tokens].samples or 0 for scores in found.values() if tokens in scores)
            told = [_tell(found[model].get(tokens), losses[model].get(tokens)) for model in found]
            rows.append([*_tell_name(name), format_length(tokens), f"{samples:,}", *told])
    columns = ["task", "filler", "context", "samples", *contents.models]
    caption = "Right answers over all positions with their 95 % interval, and the answer loss in nats per token."
    return Table(columns, rows, "llrr" + "r" * len(contents.models), caption)


def _tabulate_cells(contents: Contents, names: Sequence[str]) -> Table:
    """A line for each task, filler and length of the last model, a column for each position."""
    model = contents.models[-1]
    cells, losses = (
        {
            (name, score.context_tokens, score.depth): score
            for name in names
            for score in contents.find_scores(f"{begin}{name.removeprefix(_GRID)}", model=model)
            if score.depth is not None
        }
        for begin in (_GRID, _LOSS)
    )
    depths = sorted({depth for *_, depth in cells if depth is not None})
    rows = [
        [
            *_tell_name(name),
            format_length(tokens),
            *(_tell(cells.get((name, tokens, depth)), losses.get((name, tokens, depth))) for depth in depths),
        ]
        for name, tokens in dict.fromkeys((name, tokens) for name, tokens, _ in cells)
    ]
    columns = ["task", "filler", "context", *(f"{depth:.0%}" for depth in depths)]
    caption = f"Right answers of {model} by position of the fact, with 95 % intervals, and the answer loss."
    return Table(columns, rows, "llr" + "r" * len(depths), caption)


def _by_length(scores: Sequence[Score]) -> dict[int, Score]:
    return {score.context_tokens: score for score in scores if score.depth is None}


def _tell_name(name: str) -> tuple[str, str]:
    return name.removeprefix(_GRID).partition("/")[0].replace("_", " "), _tell_filler(name)


def _tell_filler(name: str) -> str:
    return name.rpartition("/")[2].replace("_", " ")


def _tell(score: Score | None, loss: Score | None = None) -> str:
    if score is None:
        return ""
    told = f"{score.value * 100:.0f} %\n[{score.low * 100:.0f}, {score.high * 100:.0f}]"
    return told if loss is None else f"{told}\n{loss.value:.2f} nats"
