"""``ropewalk evaluate MODEL``: measures a model folder without a run, alone or against its base."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ropewalk.commands.on_ranks import on_ranks
from ropewalk.core.error import UserError
from ropewalk.core.quantity import format_length
from ropewalk.core.record import Score
from ropewalk.core.translate import keep
from ropewalk.recipe.load import parse_evaluate
from ropewalk.recipe.suite import find_suite
from ropewalk.report.folder_verdicts import describe_verdicts, judge_folder
from ropewalk.report.table import Table
from ropewalk.shape.find import find_model
from ropewalk.shape.read import read_shape

_GRID = ("grid/", "answer_loss/grid/")
_OF_A_CORPUS = ("documents", "position_lengths", "context_law")

if TYPE_CHECKING:
    from ropewalk.recipe.spec import EvaluateSpec


def evaluate_folder(
    model: Path, overrides: Sequence[str], *, base: str | None, suite: str, store: Path
) -> dict[str, Any]:
    """The scores of a model, and of its base if there is one, with verdicts; ``overrides`` are keys of ``evaluate``.

    Lengths are doublings of the base's context (of the model's own without one) up to the model's. Sums of both are
    kept in ``store``. Raises UserError for a folder that is no model, and for another suite.
    """
    _refuse_unused(overrides)
    folders = {} if base is None else {"base": find_model(base)}
    folders["model"] = find_model(model)
    base_tokens = read_shape(next(iter(folders.values()))).context_tokens
    reach_tokens = max(base_tokens, read_shape(folders["model"]).context_tokens)
    keys = find_suite(suite, base_tokens=base_tokens, reach_tokens=reach_tokens)
    spec = parse_evaluate(overrides, keys)
    scores = on_ranks(measure_on_rank, 1, folders, spec, base_tokens, store) or []
    told: dict[str, Any] = {"suite": suite, "scores": [asdict(score) for score in scores]}
    if base is None:
        return {**told, "text": _tabulate(scores, list(folders))}
    verdicts, missing = judge_folder(scores, base_tokens=base_tokens, model_tokens=reach_tokens)
    lines = [_tabulate(scores, list(folders)), "", *describe_verdicts(verdicts, missing)]
    judged = {"verdicts": [verdict.to_json() for verdict in verdicts], "not_measured": missing}
    return {**told, **judged, "text": "\n".join(lines)}


def _refuse_unused(overrides: Sequence[str]) -> None:
    """Raise UserError for a key that a model without a corpus does not use."""
    for override in overrides:
        key = override.partition("=")[0]
        if key in _OF_A_CORPUS:
            raise UserError(
                f"{key} has no effect here",
                where=keep(override),
                why="it asks for held-out documents of a corpus, and a model folder has none",
                fix="leave it out; `ropewalk evaluate RECIPE` measures loss by position on the recipe's corpus",
            )


def measure_on_rank(
    folders: dict[str, Path], spec: "EvaluateSpec", base_tokens: int, store: Path
) -> list[Score] | None:
    """Measure the models; the scores on the first rank."""
    from ropewalk.evaluate.evaluate import evaluate_models

    return evaluate_models(folders, spec, corpus=None, base_context_tokens=base_tokens, store=store)


def _tabulate(scores: Sequence[Score], models: Sequence[str]) -> str:
    """One line per task and length, the models side by side, each with its 95 % interval; then the grid's cells."""
    whole = [score for score in scores if score.depth is None]
    found = {(score.model, score.task, score.context_tokens): score for score in whole}
    rows = [
        [task, metric, format_length(tokens), *(_tell(found.get((model, task, tokens))) for model in models)]
        for task, metric, tokens in dict.fromkeys((score.task, score.metric, score.context_tokens) for score in whole)
    ]
    text = Table(["task", "metric", "context", *models], rows, "llr" + "r" * len(models), labels=1).to_text()
    cells = [score for score in scores if score.depth is not None and score.task.startswith(_GRID)]
    return f"{text}\n\n{_tabulate_cells(cells)}" if cells else text


def _tabulate_cells(cells: Sequence[Score]) -> str:
    """One line per task, length and model, a column for each position of the fact."""
    found = {(cell.task, cell.context_tokens, cell.model, cell.depth): cell for cell in cells}
    depths = sorted({cell.depth for cell in cells if cell.depth is not None})
    rows = [
        [task, format_length(tokens), model, *(_tell(found.get((task, tokens, model, depth))) for depth in depths)]
        for task, tokens in dict.fromkeys((cell.task, cell.context_tokens) for cell in cells)
        for model in dict.fromkeys(cell.model for cell in cells)
    ]
    columns = ["task", "context", "model", *(f"fact at {depth:.0%}" for depth in depths)]
    return Table(columns, rows, "lrl" + "r" * len(depths)).to_text()


def _tell(score: Score | None) -> str:
    return "" if score is None else f"{score.value:.4g} [{score.low:.4g}, {score.high:.4g}]"
