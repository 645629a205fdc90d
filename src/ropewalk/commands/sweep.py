"""Runs every cell of a sweep in turn, each in a run folder of its own, and collects the scores in one file.

A kill loses nothing: a cell is done when its scores exist, and interrupted training continues from its checkpoint. The
same command started twice shares the work: a cell that another process holds is skipped and tried again at the end.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ropewalk.commands.claim import claim
from ropewalk.commands.decide_open import settle_given
from ropewalk.commands.draw_arms import draw_outcomes
from ropewalk.commands.evaluate import measure_models
from ropewalk.commands.extend import extend_first_stage
from ropewalk.commands.plan_growth import plan_growth
from ropewalk.commands.prepare import prepare_corpus
from ropewalk.commands.run_inputs import base_model
from ropewalk.commands.share_stages import share
from ropewalk.commands.sweep_on_ray import sweep_on_ray
from ropewalk.commands.sweep_results import Pruned, count_flops, format_results, gather, read_entry, tabulate
from ropewalk.commands.train import train_stages
from ropewalk.core.artifact import FolderInUseError, is_finished, read_manifest, write_whole
from ropewalk.core.error import UserError
from ropewalk.core.progress import say
from ropewalk.core.quantity import format_amount, format_count
from ropewalk.core.run_folder import RESULTS, RunFolder
from ropewalk.core.strict_json import spell_json
from ropewalk.evaluate.compare_arms import find_hopeless, rank_arms
from ropewalk.evaluate.study_fit import MIX_FIT, fit_study, is_ratio_study, tell_laws
from ropewalk.parallel.torchrun import is_started
from ropewalk.recipe.sweep import Cell, Sweep, load_sweep

_WAIT_SECONDS = 5.0
SUMS = "sums"
"""The folder of a study with the sums of every answer of every cell: two cells can be paired by answers."""


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
    say(f"{format_count(len(cells), 'cell')}, {len(cells) - len(left)} of them done")
    say(tell_budget(left))
    if sweep.ray is None:
        _do_cells(sweep, cells, left)
    elif left:
        sweep_on_ray(path, overrides, sweep.ray.model_copy(update={"tasks": min(sweep.ray.tasks, len(left))}))
    results = gather(sweep, cells, find_pruned(sweep, cells) or {})
    out = Path(sweep.study) / RESULTS
    write_whole(out, format_results(results))
    picture = out.with_name("pareto.svg")
    write_whole(picture, draw_outcomes(rank_arms(results["cells"])))
    made = {"results": str(out), "picture": str(picture), "cells": len(cells)}
    lines = [tabulate(results), ""]
    if is_ratio_study(results):
        fit = fit_study(results)
        write_whole(out.with_name(MIX_FIT), spell_json(fit.to_json()) + "\n")
        made["laws"] = str(out.with_name(MIX_FIT))
        lines += [*tell_laws(fit), ""]
    return {**made, "text": "\n".join([*lines, *(str(path) for key, path in made.items() if key != "cells")])}


def tell_budget(left: Sequence[Cell]) -> str:
    """What the cells that are ``left`` cost at most: beginnings that are shared, and arms left out, make it less."""
    trained = [cell for cell in left if cell.kind == "trained"]
    tokens = sum(stage.sequences * stage.context_length for cell in trained for stage in cell.recipe.stages)
    flops = sum(count_flops(cell.recipe, _folder(cell)) for cell in trained)
    return (
        f"left to do: {format_count(len(trained), 'training')} with {format_amount(tokens)} tokens and "
        f"{flops:.2g} FLOPs at most, "
        f"{format_count(len(left), 'measurement')}"
    )


def _do_cells(sweep: Sweep, cells: Sequence[Cell], left: Sequence[Cell]) -> None:
    """Do the cells that are ``left``, in turn; one that another process holds, or that must wait, comes again later."""
    while left:
        held, pruned = [], find_pruned(sweep, cells)
        for number, cell in enumerate(left, start=1):
            if _is_done(cell) or cell.name in (pruned or ()):
                continue
            if pruned is None and _is_later(sweep, cell):
                held.append(cell)
                continue
            say(f"== {cell.name}, {number} of {len(left)} left")
            try:
                _do_cell(cell, cells, Path(sweep.study))
            except FolderInUseError:
                held.append(cell)
        if len(held) == len(left):
            time.sleep(_WAIT_SECONDS)
        left = held


def _is_later(sweep: Sweep, cell: Cell) -> bool:
    """True if the seed is not one of the first, which every arm gets."""
    return sweep.prune is not None and cell.seed not in sweep.seeds[: sweep.prune.seeds]


def find_pruned(sweep: Sweep, cells: Sequence[Cell]) -> Pruned | None:
    """The cells that the study's rule leaves out, each with the better arm; None before the first seeds are measured.

    Only the first seeds decide, so the answer depends neither on the order of cells nor on how many processes do them.
    """
    if sweep.prune is None:
        return {}
    first = [cell for cell in cells if cell.kind != "zero-shot" and not _is_later(sweep, cell)]
    if not all(map(_is_done, first)):
        return None
    rule = {"far_nats": sweep.prune.far_nats, "short": sweep.prune.short}
    better = find_hopeless([read_entry(cell) for cell in first], seeds=sweep.seeds[: sweep.prune.seeds], **rule)
    places = ((cell, better.get((cell.arm or "", tuple(cell.choices.values())))) for cell in cells)
    return {cell.name: other for cell, other in places if other is not None and _is_later(sweep, cell)}


def _folder(cell: Cell) -> RunFolder:
    return RunFolder(Path(cell.recipe.run))


def _is_done(cell: Cell) -> bool:
    """True if the scores exist and belong to this recipe; after a change of the study, the cell is measured again."""
    folder = _folder(cell)
    return folder.scores.exists() and folder.scores not in plan_growth(cell.recipe, folder).stale


def _do_cell(cell: Cell, cells: Sequence[Cell], study: Path) -> None:
    """Do all parts of a cell up to its scores; finished parts are kept, and those of cells that begin alike linked."""
    import ropewalk.evaluate.evaluate  # noqa: F401 - once here, so that every forked rank has it already

    recipe, folder = cell.recipe, _folder(cell)
    with claim(recipe, folder), share(cell, cells, study):
        prepare_corpus(recipe, folder)
        require_one_tokenizer(cell, cells)
        model = base_model(folder, recipe)
        if cell.kind == "zero-shot":
            extend_first_stage(recipe, folder)
            model = folder.extended(0)
        elif cell.kind == "trained":
            train_stages(recipe, folder)
            model = folder.trained(len(recipe.stages) - 1)
        measure_models(recipe, folder, {cell.kind: model}, store=study / SUMS)


def require_one_tokenizer(cell: Cell, cells: Sequence[Cell]) -> None:
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
