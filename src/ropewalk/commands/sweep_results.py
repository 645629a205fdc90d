"""Collects the scores of a sweep's cells in one file: every score, means over seeds, contrasts, and a Pareto table."""

import json
import math
import os
import platform
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import count, islice, product
from pathlib import Path
from string import ascii_lowercase
from typing import Any

from ropewalk.commands.claim import read_base_shape
from ropewalk.commands.run import read_versions
from ropewalk.core.artifact import is_finished
from ropewalk.core.columns import count_columns, pad_columns
from ropewalk.core.quantity import format_amount
from ropewalk.core.record import Score, read_scores
from ropewalk.core.run_folder import RunFolder
from ropewalk.core.strict_json import spell_json
from ropewalk.core.translate import keep
from ropewalk.evaluate.compare_arms import FAR, SHORT, ArmOutcome, contrast_arms, rank_arms
from ropewalk.evaluate.score import mean
from ropewalk.plan.flops import token_flops
from ropewalk.recipe.role_shares import role_shares
from ropewalk.recipe.spec import Recipe
from ropewalk.recipe.sweep import Cell, Sweep
from ropewalk.shape.read import read_shape

_DIGITS = 6
_INTERVAL = ("value", "low", "high")
COLUMNS = ("task", "metric", "context_tokens", "depth", "n", *_INTERVAL)
Pruned = Mapping[str, str]
"""The name of a cell that was left out -> the arm that was better."""


def gather(sweep: Sweep, cells: Sequence[Cell], pruned: Pruned) -> dict[str, Any]:
    """All scores of the measured cells, means over seeds, contrasts with the first arm, and what was left out.

    A score is a list with the entries that ``columns`` names, because there are thousands of scores.
    """
    entries = [read_entry(cell) for cell in cells if cell.name not in pruned]
    arms = {name: list(own) for name, own in sweep.every_arm.items()}
    contrasts = contrast_arms(entries, next(iter(arms)))
    for contrast in contrasts:
        contrast["scores"] = [
            [*row[:2], *(number if math.isfinite(number) else None for number in _round(row[2:]))]  # JSON has no inf
            for row in contrast["scores"]
        ]
    return {
        "sweep": sweep.model_dump(mode="json", exclude={"study"}) | {"arms": arms},
        "machine": {"processor": _name_processor(), "cores": os.cpu_count(), **read_versions()},
        "columns": COLUMNS,
        "model": name_model(cells[0].recipe),
        "roles": {source.name: source.role for source in cells[0].recipe.corpus.sources},
        "means": average(entries),
        "contrasts": contrasts,
        "pruned": dict(pruned),
        "cells": entries,
    }


def read_entry(cell: Cell) -> dict[str, Any]:
    """A measured cell as ``results.json`` has it, with the context and the training FLOPs of its arm."""
    folder = RunFolder(Path(cell.recipe.run))
    return {
        "kind": cell.kind,
        "arm": cell.arm,
        "choices": cell.choices,
        "seed": cell.seed,
        "recipe": cell.recipe.digest,
        "context_tokens": cell.recipe.stages[-1].reach_tokens,
        "tokens": sum(stage.sequences * stage.context_length for stage in cell.recipe.stages),
        "cost_flops": count_flops(cell.recipe, folder) if cell.kind == "trained" else 0.0,
        "shares": role_shares(cell.recipe, cell.recipe.stages[-1]),
        "scores": [_row(score) for score in read_scores(folder.scores)],
    }


def name_model(recipe: Recipe) -> str:
    """The recipe's base as it names it; a model from random weights has no name."""
    return recipe.model if isinstance(recipe.model, str) else ""


def count_flops(recipe: Recipe, folder: RunFolder) -> float:
    """Training FLOPs of all stages, as if each document filled its sequence: an upper bound that orders arms.

    nan where the model starts from random weights that are not made yet.
    """
    shape = read_base_shape(recipe) or (read_shape(folder.initial) if is_finished(folder.initial) else None)
    if shape is None:
        return math.nan
    return math.fsum(
        stage.sequences * stage.context_length * token_flops(shape, stage.context_length, lora=stage.lora).model
        for stage in recipe.stages
    )


def average(cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means over seeds of each arm's tasks, without depths; a single seed keeps its own interval, and n is summed.

    A task that only some seeds have, such as a law that was refused in others, has no mean; the cells have its scores.
    """
    repeats: dict[str, list[list[list[Any]]]] = defaultdict(list)
    for cell in cells:
        arm = spell_json({key: cell[key] for key in ("kind", "arm", "choices")})
        repeats[arm].append([row for row in cell["scores"] if row[COLUMNS.index("depth")] is None])
    means = []
    for arm, tables in repeats.items():
        rows = []
        by_task = [{tuple(row[:4]): row for row in table} for table in tables]
        for key in (key for key in by_task[0] if all(key in table for table in by_task)):
            same = [table[key] for table in by_task]
            task, metric, tokens, depth, _, *interval = same[0]
            if len(same) > 1:
                interval = _round(mean([row[5] for row in same]))
            rows.append([task, metric, tokens, depth, sum(row[4] for row in same), *interval])
        means.append({**json.loads(arm), "seeds": len(tables), "scores": rows})
    return means


def _round(numbers: Sequence[float]) -> list[float]:
    return [round(number, _DIGITS) for number in numbers]


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
            lines = ",\n".join(spell_json(entry, ensure_ascii=False) for entry in value)
            parts.append(f'"{key}": [\n{lines}\n]')
        else:
            parts.append(f'"{key}": {spell_json(value, ensure_ascii=False)}')
    return "{\n" + ",\n".join(parts) + "\n}\n"


def tabulate(results: dict[str, Any]) -> str:
    """Retrieval by length and the loss gap for the terminal, one line per arm; then contrasts and the Pareto table."""
    table: dict[str, dict[str, float]] = {}
    for entry in results["means"]:
        name = " ".join([entry["kind"], *entry["choices"].values(), entry["arm"] or ""])
        table[name] = {
            f"{task} {tokens}": value
            for task, metric, tokens, _, _, value, *_ in entry["scores"]
            if metric == "accuracy" or task == "nll/gap"
        }
    columns = list(dict.fromkeys(column for row in table.values() for column in row))
    letters = list(islice(_list_letters(), len(columns)))
    width = max(map(count_columns, table))
    lines = [f"{letter}: {column}" for letter, column in zip(letters, columns, strict=True)]
    lines.append(" " * width + "".join(f"{letter:>8}" for letter in letters))
    for name, row in table.items():
        figures = "".join(f"{row[c]:8.3f}" if c in row else " " * 8 for c in columns)
        lines.append(f"{keep(pad_columns(name, width))}{figures}")
    parts = [
        "\n".join(lines),
        *_tell_contrasts(results["contrasts"]),
        tabulate_outcomes(rank_arms(results["cells"])),
    ]
    if results["pruned"]:
        told = [f"  {name}: {better} was better in every first seed" for name, better in results["pruned"].items()]
        parts.append("\n".join(["left out as hopeless:", *told]))
    return "\n\n".join(parts)


def _list_letters() -> Iterator[str]:
    """Names of columns without end: a to z, then aa, ab and so on."""
    for length in count(1):
        yield from map("".join, product(ascii_lowercase, repeat=length))


def _tell_contrasts(contrasts: Sequence[dict[str, Any]]) -> list[str]:
    lines = []
    for contrast in contrasts:
        place = " ".join(["", *contrast["choices"].values()])
        told = [
            f"{task} {spell_interval((value, low, high), '+.4f')}"
            for task, _, value, low, high in contrast["scores"]
            if task in (FAR, SHORT)
        ]
        lines.append(f"  {contrast['arm']} minus {contrast['minus']}{place}: {', '.join(told)}")
    return ["\n".join(["paired differences over seeds, 95 % each:", *lines])] if lines else []


def tabulate_outcomes(outcomes: Sequence[ArmOutcome]) -> str:
    """Far loss, short-context loss and cost of each arm; a star marks those that no other arm beats in all three."""
    lines = ["  far loss, nats           short loss               training FLOPs  (*: Pareto front)"]
    for each in outcomes:
        name = " ".join([each.kind, *each.choices, each.arm])
        far, short = spell_interval(each.far, ".4f"), spell_interval(each.short, "+.2%")
        lines.append(f"{'*' if each.best else ' '} {far:<24} {short:<24} {format_amount(each.cost):<10} {keep(name)}")
    return "\n".join(lines)


def spell_interval(interval: Sequence[float | None], form: str) -> str:
    """``-0.0630 [-0.0970, -0.0290]``; the value alone where one seed has no interval."""
    value, low, high = interval
    if value is None or math.isnan(value):
        return "not measured"
    if low is None or high is None or not math.isfinite(high - low):
        return f"{value:{form}}"
    return f"{value:{form}} [{low:{form}}, {high:{form}}]"
