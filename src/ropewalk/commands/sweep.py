"""Runs every cell of a sweep in turn, each in a run folder of its own, and collects the scores in one file.

A kill loses nothing: a cell is done when its scores exist, and interrupted training continues from its checkpoint. The
same command started twice shares the work: a cell that another process holds is skipped and tried again at the end.
"""

import json
import os
import platform
import time
from collections import defaultdict
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ropewalk.commands.claim import claim
from ropewalk.commands.decide_open import settle_given
from ropewalk.commands.evaluate import measure_models
from ropewalk.commands.extend import extend_first_stage
from ropewalk.commands.plan_growth import plan_growth
from ropewalk.commands.prepare import prepare_corpus
from ropewalk.commands.run import read_versions
from ropewalk.commands.run_inputs import base_model
from ropewalk.commands.train import train_stages
from ropewalk.core.artifact import FolderInUseError, is_finished, read_manifest, write_whole
from ropewalk.core.error import UserError
from ropewalk.core.progress import say
from ropewalk.core.record import Score, read_scores
from ropewalk.core.run_folder import RunFolder
from ropewalk.evaluate.score import mean
from ropewalk.parallel.torchrun import is_started
from ropewalk.recipe.sweep import Cell, Sweep, load_sweep

_WAIT_SECONDS = 5.0
_DIGITS = 6
_INTERVAL = ("value", "low", "high")
COLUMNS = ("task", "metric", "context_tokens", "depth", "n", *_INTERVAL)


def run_sweep(path: Path, overrides: list[str]) -> dict[str, Any]:
    """Do every cell that is not done yet, and collect the scores of all. Returns the summary for the command line."""
    if is_started():
        raise UserError(
            "a sweep must not be started by torchrun",
            where=str(path),
            why="torchrun started this process, but each cell is a run that may need another number of ranks",
            fix=f"ropewalk sweep {path} without torchrun, once on each machine: they share the cells",
        )
    sweep, cells = load_sweep(path, overrides)
    cells = [replace(cell, recipe=settle_given(cell.recipe).recipe) for cell in cells]
    left = [cell for cell in cells if not _is_done(cell)]
    say(f"{len(cells)} cells, {len(cells) - len(left)} of them done")
    while left:
        held = []
        for number, cell in enumerate(left, start=1):
            if not _is_done(cell):
                say(f"== {cell.name}, {number} of {len(left)} left")
                try:
                    _do_cell(cell, cells)
                except FolderInUseError:
                    held.append(cell)
        if len(held) == len(left):
            time.sleep(_WAIT_SECONDS)
        left = held
    results = gather(sweep, cells)
    out = Path(sweep.study) / "results.json"
    write_whole(out, format_results(results))
    return {"results": str(out), "cells": len(cells), "text": f"{tabulate(results)}\n\n{out}"}


def _folder(cell: Cell) -> RunFolder:
    return RunFolder(Path(cell.recipe.run))


def _is_done(cell: Cell) -> bool:
    """True if the scores exist and belong to this recipe; after a change of the study, the cell is measured again."""
    folder = _folder(cell)
    return folder.scores.exists() and folder.scores not in plan_growth(cell.recipe, folder).stale


def _do_cell(cell: Cell, cells: list[Cell]) -> None:
    """Do all parts of a cell up to its scores; finished parts are kept."""
    import ropewalk.evaluate.evaluate  # noqa: F401 - once here, so that every forked rank has it already

    recipe, folder = cell.recipe, _folder(cell)
    with claim(recipe, folder):
        prepare_corpus(recipe, folder)
        require_one_tokenizer(cell, cells)
        model = base_model(folder, recipe)
        if cell.kind == "zero-shot":
            extend_first_stage(recipe, folder)
            model = folder.extended(0)
        elif cell.kind == "trained":
            train_stages(recipe, folder)
            model = folder.trained(len(recipe.stages) - 1)
        measure_models(recipe, folder, {cell.kind: model})


def require_one_tokenizer(cell: Cell, cells: list[Cell]) -> None:
    """Raise UserError if another arm at the same axis values has another tokenizer.

    Losses per token of two tokenizers cannot be compared.
    """
    for other in cells:
        if other.choices == cell.choices and is_finished(_folder(other).corpus):
            ours, its = (read_manifest(_folder(each).corpus)["inputs"].get("tokenizer") for each in (cell, other))
            if ours != its:
                raise UserError(
                    f"{cell.name} has another tokenizer than {other.name}",
                    where=str(_folder(cell).corpus),
                    why="arms are compared on the same tokens, and losses per token of different tokenizers cannot "
                    "be compared",
                    fix="make a study for each tokenizer, or remove the arm that changes `model`",
                )


def gather(sweep: Sweep, cells: list[Cell]) -> dict[str, Any]:
    """All scores of the cells, the digest of each cell's recipe, and the means over seeds.

    A score is a list with the entries that ``columns`` names, because there are thousands of scores.
    """
    entries = [
        {
            "kind": cell.kind,
            "arm": cell.arm,
            "choices": cell.choices,
            "seed": cell.seed,
            "recipe": cell.recipe.digest,
            "scores": [_row(score) for score in read_scores(_folder(cell).scores)],
        }
        for cell in cells
    ]
    return {
        "sweep": sweep.model_dump(mode="json", exclude={"study"}),
        "machine": {"processor": _name_processor(), "cores": os.cpu_count(), **read_versions()},
        "columns": COLUMNS,
        "means": average(entries),
        "cells": entries,
    }


def average(cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means over seeds of each arm's tasks, without depths; a single seed keeps its own interval, and n is summed."""
    repeats: dict[str, list[list[list[Any]]]] = defaultdict(list)
    for cell in cells:
        arm = json.dumps({key: cell[key] for key in ("kind", "arm", "choices")})
        repeats[arm].append([row for row in cell["scores"] if row[COLUMNS.index("depth")] is None])
    means = []
    for arm, tables in repeats.items():
        rows = []
        for same in zip(*tables, strict=True):
            task, metric, tokens, depth, _, *interval = same[0]
            assert all(row[:4] == same[0][:4] for row in same)
            if len(same) > 1:
                interval = [round(number, _DIGITS) for number in mean([row[5] for row in same])]
            rows.append([task, metric, tokens, depth, sum(row[4] for row in same), *interval])
        means.append({**json.loads(arm), "seeds": len(tables), "scores": rows})
    return means


def _row(score: Score) -> list[Any]:
    values = asdict(score)
    return [round(values[key], _DIGITS) if key in _INTERVAL else values[key] for key in COLUMNS]


def _name_processor() -> str:
    known = Path("/proc/cpuinfo")
    lines = known.read_text().splitlines() if known.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def format_results(results: dict[str, Any]) -> str:
    """JSON with one line per mean and per cell, so that a diff shows only the changed ones."""
    parts = []
    for key, value in results.items():
        if isinstance(value, list):
            lines = ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in value)
            parts.append(f'"{key}": [\n{lines}\n]')
        else:
            parts.append(f'"{key}": {json.dumps(value, ensure_ascii=False)}')
    return "{\n" + ",\n".join(parts) + "\n}\n"


def tabulate(results: dict[str, Any]) -> str:
    """Retrieval by length and the loss gap for the terminal, one line per arm."""
    table: dict[str, dict[str, float]] = {}
    for entry in results["means"]:
        name = " ".join([entry["kind"], *entry["choices"].values(), entry["arm"] or ""])
        table[name] = {
            f"{task} {tokens}": value
            for task, metric, tokens, _, _, value, *_ in entry["scores"]
            if metric == "accuracy" or task == "nll/gap"
        }
    columns = list(dict.fromkeys(column for row in table.values() for column in row))
    letters = [chr(ord("a") + number) for number in range(len(columns))]
    width = max(map(len, table))
    lines = [f"{letter}: {column}" for letter, column in zip(letters, columns, strict=True)]
    lines.append(" " * width + "".join(f"{letter:>8}" for letter in letters))
    for name, row in table.items():
        lines.append(f"{name:<{width}}" + "".join(f"{row[c]:8.3f}" if c in row else " " * 8 for c in columns))
    return "\n".join(lines)
