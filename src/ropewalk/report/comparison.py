"""Several runs on one page: the measures of their trained models side by side, then each run's own summary."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ropewalk.core.artifact import write_whole
from ropewalk.core.error import UserError
from ropewalk.report.contents import Contents, read_run
from ropewalk.report.html import Page, render
from ropewalk.report.page import tell_run
from ropewalk.report.section import Section
from ropewalk.report.table import Table, TableCell
from ropewalk.report.target import Verdict, find_outcomes, format_value, mark_of, verdict_table
from ropewalk.report.verdict import judge_measures
from ropewalk.report.visible import show_hidden

_TRAINED = "extended"
_CAPTION = (
    "Trained models, with 95 % intervals. The colour is the run's own target. Intervals that overlap do not show that "
    "two runs are alike: `ropewalk sweep` compares in pairs."
)

Run = tuple[Contents, list[Verdict]]


def write_comparison(folders: Sequence[Path], target: Path) -> dict[str, Any]:
    """Write one page about the runs in ``folders`` to ``target``; the table as ``text`` and the verdicts of each run.

    Raises UserError for fewer than two runs, for one that is given twice, and for a folder that has no run.
    """
    _refuse_few(folders)
    if target.is_dir():
        raise UserError("the page needs a file", where=str(target), why="this is a folder", fix="--out comparison.html")
    runs: dict[str, Run] = {}
    names = [folder.resolve().name for folder in folders]
    for folder, name in zip(folders, names, strict=True):
        contents = read_run(folder)
        label = contents.name if names.count(name) == 1 else show_hidden(str(folder))
        runs[label] = contents, judge_measures(contents)
    notes = list(_tell_differences({label: contents for label, (contents, _) in runs.items()}))
    whole = _tabulate(runs, intervals=True)
    page = Page(
        title=f"Comparison of {len(runs)} runs",
        what=", ".join(runs),
        verdict="The runs were measured on different things."
        if notes
        else "All runs were measured on the same things.",
        verdict_mark="open" if notes else "",
        tiles=(),
        summary=whole,
        sections=[
            _describe(runs, notes),
            *(_make_summary(n, label, *run) for n, (label, run) in enumerate(runs.items())),
        ],
        made_from="the files of the run folders. Intervals are 95 %; n is the number of documents, or of prompts",
    )
    write_whole(target, render(page))
    table = _tabulate(runs, intervals=False)
    return {
        "text": "\n".join(
            [*([table.to_text()] if table else ["Nothing has been measured yet."]), "", *notes, str(target)]
        ),
        "made": [str(target)],
        "notes": notes,
        "runs": {label: [verdict.to_json() for verdict in verdicts] for label, (_, verdicts) in runs.items()},
    }


def _refuse_few(folders: Sequence[Path]) -> None:
    places = [folder.resolve() for folder in folders]
    twice = next((folder for folder, place in zip(folders, places, strict=True) if places.count(place) > 1), None)
    if len(folders) < 2 or twice is not None:
        raise UserError(
            "there is nothing to compare",
            where="the command line",
            why=f"{twice} is given twice" if twice is not None else "one run is given",
            fix="ropewalk report --compare RUN RUN ..., each another run folder",
        )


def _tell_differences(runs: Mapping[str, Contents]) -> Iterator[str]:
    """What keeps the figures of the runs from being compared, a line each."""
    facts: dict[str, list[object]] = {
        "the base": [contents.recipe["model"] for contents in runs.values()],
        "the corpus and its held-out text": [(contents.corpus or {}).get("digest") for contents in runs.values()],
        "the keys of evaluate": [contents.recipe["evaluate"] for contents in runs.values()],
    }
    for what, values in facts.items():
        if any(value != values[0] for value in values):
            first = next(label for label, value in zip(runs, values, strict=True) if value != values[0])
            yield f"{what}: {next(iter(runs))} and {first} differ, so figures that depend on it are not comparable"


def _tabulate(runs: Mapping[str, Run], *, intervals: bool) -> Table | None:
    """A line for each measure, a column for each run; None where nothing was measured."""
    trained = {
        label: {verdict.key: verdict for verdict in verdicts if verdict.model == _TRAINED}
        for label, (_, verdicts) in runs.items()
    }
    names = {key: verdict.name for found in trained.values() for key, verdict in found.items()}
    rows: list[list[str | TableCell]] = []
    for key, name in names.items():
        found = [measures.get(key) for measures in trained.values()]
        rows.append([name, *(_tell(verdict, intervals=intervals) for verdict in found)])
    return Table(["measure", *runs], rows, "l" + "r" * len(runs), _CAPTION) if rows else None


def _tell(verdict: Verdict | None, *, intervals: bool) -> TableCell:
    if verdict is None:
        return TableCell("")
    return TableCell(format_value(verdict, interval=intervals).replace(" [", "\n["), mark_of(verdict))


def _describe(runs: Mapping[str, Run], notes: Sequence[str]) -> Section:
    rows = []
    for label, (contents, verdicts) in runs.items():
        found = find_outcomes(verdicts)
        rows.append([label, tell_run(contents), *(str(len(found[each])) for each in ("met", "missed", "undecided"))])
    table = Table(["run", "what was done", "met", "missed", "undecided"], rows, "lwrrr", "Numbers of targets.")
    return Section("runs", "Runs", tables=[table], points=notes)


def _make_summary(number: int, label: str, contents: Contents, verdicts: Sequence[Verdict]) -> Section:
    """The summary of one run, as its own report has it."""
    if not verdicts:
        return Section(f"run-{number}", label, tell_run(contents), note="Nothing has been measured yet.")
    return Section(f"run-{number}", label, tell_run(contents), [verdict_table(verdicts, intervals=True)])
