"""One self-contained page about a run, and the same summary for the terminal.

Both show the same things in the same order: the run, every measure with its target, and the number of met targets.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ropewalk.core.artifact import write_whole
from ropewalk.core.error import MISSED_CODE, UNDECIDED_CODE
from ropewalk.core.quantity import format_amount, format_count, format_length
from ropewalk.core.run_folder import RunFolder
from ropewalk.report.contents import Contents, read_run
from ropewalk.report.context_losses import make_context_losses
from ropewalk.report.grid_cells import make_grid
from ropewalk.report.html import HeadFigure, Page, render
from ropewalk.report.inputs import make_done, make_ledger, make_mixture, make_positions, make_versions
from ropewalk.report.outcomes import (
    make_experts,
    make_loss_by_position,
    make_parity,
    make_retrieval,
    make_speed,
    make_training,
)
from ropewalk.report.receipt import make_receipt
from ropewalk.report.source_losses import make_forgetting, make_short
from ropewalk.report.table import Mark
from ropewalk.report.target import Verdict, find_outcomes, format_bound, format_value, mark_of, verdict_table
from ropewalk.report.verdict import judge_measures
from ropewalk.report.written import make_written

_SECTIONS = (
    make_done,
    make_positions,
    make_ledger,
    make_mixture,
    make_training,
    make_loss_by_position,
    make_context_losses,
    make_retrieval,
    make_grid,
    make_written,
    make_short,
    make_forgetting,
    make_speed,
    make_receipt,
    make_experts,
    make_parity,
    make_versions,
)

_TRIAL = "a trial of few steps and few measurements, whose figures say little about the model"


def write_report(run: Path) -> Path:
    """Write ``report.html`` into a run folder, from the files in it. Raises UserError if it is not a run folder."""
    target = RunFolder(run).report
    write_whole(target, render(make_page(run)))
    return target


def make_page(run: Path, *, live: str = "") -> Page:
    """The report of a run folder; ``live`` is the state of its files, for a page that is watched.

    Raises UserError if it is not a run folder, or if a file in it is damaged.
    """
    contents = read_run(run)
    verdicts = judge_measures(contents)
    return Page(
        title=f"{contents.name} (trial)" if contents.is_trial else contents.name,
        what=tell_run(contents),
        verdict=_tell_verdict(verdicts),
        verdict_mark=_mark_all(verdicts),
        tiles=_make_tiles(verdicts),
        summary=verdict_table(verdicts, intervals=True, caption=_tell_columns(contents)) if verdicts else None,
        sections=[section for make in _SECTIONS if (section := make(contents)) is not None],
        made_from="the files of the run folder. Intervals are 95 %; n is the number of documents, or of prompts",
        recipe=yaml.safe_dump(dict(contents.recipe), sort_keys=False, allow_unicode=True),
        live=live,
    )


def summarise(run: Path) -> dict[str, Any]:
    """The summary of a run: ``text`` for people; ``verdicts`` and counts (``targets_met`` ...) for programs."""
    contents = read_run(run)
    verdicts = judge_measures(contents)
    found = find_outcomes(verdicts)
    lines = [tell_run(contents), ""]
    if verdicts:
        lines += [verdict_table(verdicts, intervals=False).to_text(), ""]
        lines += [f"{told}\n"] if (told := _tell_columns(contents)) else []
    lines.append(_tell_verdict(verdicts))
    return {
        "text": "\n".join(lines),
        "verdicts": [verdict.to_json() for verdict in verdicts],
        **{f"targets_{outcome}": len(targets) for outcome, targets in found.items()},
        "targets_set": sum(map(len, found.values())),
    }


def strict_code(summary: Mapping[str, Any]) -> int:
    """The exit code with strictness: 3 if a target is missed, 4 if one is undecided or nothing was measured.

    ``summary`` is the result of ``summarise``.
    """
    if summary["targets_missed"]:
        return MISSED_CODE
    return UNDECIDED_CODE if summary["targets_undecided"] or not summary["targets_set"] else 0


def tell_run(contents: Contents) -> str:
    """A line such as ``tiny-base, 512 to 2Ki tokens (4x), 1.5M tokens in 183 steps``."""
    parts = [contents.model]
    before, after = contents.base_context_tokens, contents.context_tokens
    if before is None or before == after:
        parts.append(f"{format_length(after)} tokens")
    else:
        parts.append(f"{format_length(before)} to {format_length(after)} tokens ({after / before:g}x)")
    taken = sum(sum(stage.source_tokens.values()) for stage in contents.stages)
    if taken:
        counted = sum(stage.counted_steps for stage in contents.stages)
        parts.append(f"trained on {format_amount(taken)} tokens in {format_count(counted, 'step')}")
    # tokens are counted every log_steps steps, and a stage whose loss no longer falls may end between two counts
    going = next((each for each in contents.stages if not each.finished and each.steps > each.counted_steps), None)
    if going is not None:
        parts.append(f"now at step {going.steps:,} of stage {going.number}")
    told = ", ".join(parts)
    return f"{told}; {_TRIAL}" if contents.is_trial else told


def _tell_columns(contents: Contents) -> str:
    """Why there is no ``zero-shot``; empty if there is one, or nothing that it could stand beside."""
    if len(contents.stages) == 1 or "base" not in contents.models or "zero-shot" in contents.models:
        return ""
    return "No zero-shot: of several stages, the last one's positions exist on trained weights only."


def _tell_verdict(verdicts: list[Verdict]) -> str:
    found = find_outcomes(verdicts)
    met, asked = len(found["met"]), sum(map(len, found.values()))
    if not asked:
        return "Nothing has been measured yet." if not verdicts else "No target is set for these measures."
    if met == asked:
        return f"All {asked} targets are met." if asked > 1 else "The one target is met."
    parts = [f"{met} of {asked} targets are met."]
    if found["missed"]:
        parts.append(f"Missed: {'; '.join(f'{each.name}, {each.model}' for each in found['missed'])}.")
    if found["undecided"]:
        told = "; ".join(
            f"{each.name}, {each.model}: {format_value(each, interval=True)}" for each in found["undecided"]
        )
        parts.append(f"Undecided, the target lies inside the 95 % interval: {told}.")
    return " ".join(parts)


def _mark_all(verdicts: list[Verdict]) -> Mark:
    found = find_outcomes(verdicts)
    return "fail" if found["missed"] else "open" if found["undecided"] else "pass" if found["met"] else ""


def _make_tiles(verdicts: list[Verdict]) -> list[HeadFigure]:
    """One tile per measure of the extended model."""
    base = {verdict.key: verdict for verdict in verdicts if verdict.model == "base"}
    tiles = []
    for verdict in verdicts:
        if verdict.model == "extended":
            before = base.get(verdict.key)
            asked = f"aim {format_bound(verdict)}" if verdict.aim else format_bound(verdict)
            name = verdict.name.partition(" (")[0]
            tiles.append(
                HeadFigure(
                    name,
                    format_value(before, interval=False) if before else "",
                    format_value(verdict, interval=False),
                    asked,
                    mark_of(verdict),
                )
            )
    return tiles
