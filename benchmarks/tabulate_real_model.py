"""The tables of docs/real-model.md, from the readings of real_model.py.

    python benchmarks/tabulate_real_model.py benchmarks/results/*-real-model.jsonl docs/real-model.md

The tables are written between the page's two marks. A cell counts the texts that were read; a dash is a cell without a
reading. Intervals are at 95 %, over texts (of answers' nats over answers), in pairs where two models are compared.
Each model and precision has tables of its own, because only readings of one precision make a pair. The loss is that of
whole texts (``loss``), of texts with facts and questions (``questions``), or of texts that end in quotations alone
(``quote``, as earlier versions read); their last positions differ, so each has a table of its own.
"""

import json
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from page_tables import write_tables
from ropewalk.core.quantity import format_length, format_seconds
from ropewalk.evaluate.score import difference, wilson_of_prompts

ROUNDS, PROMPTS = 4, ("key_value", "needle")
METHODS = ("unchanged", "theta", "ntk", "yarn")
TEXTS = {"questions": " with hidden facts", "loss": "", "quote": " with quotations alone"}
ANSWERS = {
    "needle": "Numbers",
    "key_value": "Colours",
    "quotation": "Quotations",
}
Reading = dict[str, Any]
Cells = dict[tuple[str, str, str, int, int], list[Reading]]
"""By part (model, precision), kind, arm, target and tokens; the readings in the order of their texts."""


def read_cells(paths: Sequence[Path]) -> Cells:
    """All readings of some results files."""
    cells: Cells = defaultdict(list)
    for line in (line for path in paths for line in path.read_text().splitlines()):
        reading = json.loads(line)
        number, kind, arm, target, tokens = reading["key"]
        # the place in the book names a text; older readings have its number alone
        cells[f"{reading['model']}, {reading['precision']}", kind, arm, target, tokens].append(
            reading | {"number": reading.get("begin", number)}
        )
    for readings in cells.values():
        readings.sort(key=lambda reading: int(reading["number"]))
    return cells


def tabulate(cells: Cells) -> str:
    """All tables of the page, one part for a model and a precision."""
    parts = []
    for part in dict.fromkeys(key[0] for key in cells):
        mine: Cells = {key: value for key, value in cells.items() if key[0] == part}
        tables = [*_tabulate_texts(mine), *_tabulate_answers(mine)]
        parts += [f"### {part}", *tables, _tell_cost(mine)]
    return "\n\n".join(parts)


def _tabulate_texts(cells: Cells) -> Iterator[str]:
    """For each target: nats by position, what training added there, and the answers."""
    for kind, target in sorted(
        {(key[1], key[3]) for key in cells if key[1] in TEXTS}, key=lambda each: ([*TEXTS].index(each[0]), each[1])
    ):
        found = {key[2]: readings for key, readings in cells.items() if (key[1], key[3]) == (kind, target)}
        here = {arm: found[arm] for arm in sorted(found, key=_rank)}
        borders = next(iter(here.values()))[0]["borders"]
        names = [f"to {format_length(end)}" for end in borders[1:]]
        rows: list[list[str]] = []
        for arm, readings in here.items():
            sums = np.array([[reading["nll"], reading["count"]] for reading in readings]).sum(axis=0)
            compared = "-" if arm == "unchanged" else _compare(readings, here.get("unchanged", []), -1)
            rows.append([arm, *(f"{value:.3f}" for value in sums[0] / sums[1]), compared, str(len(readings))])
        yield f"Loss by position to {format_length(target)}{TEXTS[kind]}, nats:"
        yield _write_table(["method", *names, "last, less unchanged", "texts"], rows)
        added = [
            [arm, *(_compare(readings, here[arm.partition("+")[0]], place) for place in range(len(names)))]
            for arm, readings in here.items()
            if "+" in arm and arm.partition("+")[0] in here
        ]
        if added:
            yield "The same, less the same method untrained, on the texts that both have read:"
            yield _write_table(["trained", *names], added)
        if kind == "questions":
            yield from _tell_change(here, cells)
        if kind != "loss":
            yield from _tabulate_asked(here)


def _tell_change(arms: dict[str, list[Reading]], cells: Cells) -> Iterator[str]:
    """What the facts do to the loss of the same pieces, which were read with quotations alone as well."""
    changes = []
    for (_, kind, arm, target, _), readings in cells.items():
        plain = {reading["number"]: reading for reading in readings if kind == "quote" and arm != "unchanged"}
        for reading in arms.get(arm, []):
            other = plain.get(reading["number"])
            if other is not None and reading["key"][3] == target:
                both = (np.array(each["nll"]) / np.array(each["count"]) for each in (reading, other))
                changes.append(np.subtract(*both))
    if changes:
        every = np.concatenate(changes)
        yield (
            f"Facts change a part's nats by {every.mean():+.3f} in the mean ({every.min():+.3f} to {every.max():+.3f}; "
            f"{len(changes)} pieces were also read with quotations alone)."
        )


def _rank(arm: str) -> tuple[bool, int, str]:
    """Untrained methods first, in the order of METHODS."""
    method, _, trained = arm.partition("+")
    return bool(trained), METHODS.index(method), trained


def _tabulate_asked(arms: dict[str, list[Reading]]) -> Iterator[str]:
    """A table for each kind of answer."""
    first = next(iter(arms.values()))[0]
    kinds = first.get("kinds", {"quotation": len(first["depths"])})
    ends = dict(zip(kinds, np.cumsum([*kinds.values()]).tolist(), strict=True))
    for kind in sorted(kinds, key=[*ANSWERS].index):
        own = slice(ends[kind] - kinds[kind], ends[kind])
        yield f"{ANSWERS[kind]}, {kinds[kind]} a text:"
        taken = {arm: [_take_answers(reading, own) for reading in readings] for arm, readings in arms.items()}
        yield _tabulate_kind(taken)


def _take_answers(reading: Reading, own: slice) -> Reading:
    parts = {name: {key: value[own] for key, value in reading[name].items()} for name in ("answers", "alone")}
    return {"number": reading["number"], **parts}


def _tabulate_kind(arms: dict[str, list[Reading]]) -> str:
    """Right ones with and without the text before them, the nats of their tokens, and what training added to these."""
    rows: list[list[str]] = []
    for arm, readings in arms.items():
        asked, alone = ([reading[name] for reading in readings] for name in ("answers", "alone"))
        nats = [
            sum(sum(each["nll"]) for each in answers) / sum(sum(each["count"]) for each in answers)
            for answers in (asked, alone)
        ]
        plain = [] if arm == "unchanged" else arms.get(arm.partition("+")[0] if "+" in arm else "unchanged", [])
        flat = [_flatten_answers(each) for each in (readings, plain)]
        change = _compare(*flat, -1)
        rows.append(
            [arm, _share(asked), _share(alone), *(f"{value:.2f}" for value in nats), change, str(len(readings))]
        )
    columns = [
        "method",
        "right",
        "right without the text",
        "nats",
        "nats without the text",
        "nats, less unchanged; trained: less untrained",
        "texts",
    ]
    return _write_table(columns, rows)


def _flatten_answers(readings: list[Reading]) -> list[Reading]:
    """Each answer as a text of its own with one group: passages of one text are the sample of a comparison."""
    return [
        {"number": (reading["number"], place), "nll": [nll], "count": [count]}
        for reading in readings
        for place, (nll, count) in enumerate(zip(reading["answers"]["nll"], reading["answers"]["count"], strict=True))
    ]


def _compare(readings: list[Reading], others: list[Reading], place: int) -> str:
    """The loss of one group less that of ``others``, on the texts that both have read; a dash if there is none."""
    base = {reading["number"]: reading for reading in others}
    both = [(reading, base[reading["number"]]) for reading in readings if reading["number"] in base]
    if not both:
        return "-"
    pairs = np.array([[[each["nll"][place], each["count"][place]] for each in pair] for pair in both], dtype=float)
    value, low, high = difference((pairs[:, 0, 0], pairs[:, 0, 1]), (pairs[:, 1, 0], pairs[:, 1, 1])).interval
    return f"{value:+.3f}" + (f" [{low:+.3f}, {high:+.3f}]" if np.isfinite(low) else "")


def _tabulate_answers(cells: Cells) -> Iterator[str]:
    """Right answers of the asked ones, by method and length."""
    asked = sorted({key[2:] for key in cells if key[1] in PROMPTS}, key=lambda key: (key[1], key[2], key[0]))
    if not asked:
        return
    part = next(iter(cells))[0]
    rows: list[list[str]] = []
    for arm, target, tokens in asked:
        row = [arm, format_length(target), format_length(tokens)]
        for kind in PROMPTS:
            row.append(_share(cells.get((part, kind, arm, target, tokens), [])))
        rows.append(row)
    yield "Answers:"
    yield _write_table(["method", "extended to", "asked at", "key-value, right", "needle, right"], rows)


def _share(readings: list[Reading]) -> str:
    if not readings:
        return "-"
    right = np.array([sum(map(float.__eq__, each["correct"], each["count"])) for each in readings], dtype=float)
    count = np.array([len(each["count"]) for each in readings], dtype=float)
    share, low, high = wilson_of_prompts(right, count)
    told = f" [{low:.0%}, {high:.0%}]" if len(readings) > 1 else ""
    return f"{share:.0%} of {count.sum():.0f}{told}".replace("%", " %")


def _tell_cost(cells: Cells) -> str:
    every = [reading for readings in cells.values() for reading in readings]
    seconds = sum(reading.get("cpu_seconds", reading["seconds"]) for reading in every)
    clock = "" if all("cpu_seconds" in reading for reading in every) else ", in part by the clock"
    tokens = sum(key[4] * len(readings) for key, readings in cells.items())
    threads = sorted({reading["threads"] for reading in every})
    dates = sorted({reading["date"][:10] for reading in every})
    few = sum(len(readings) < ROUNDS for readings in cells.values())
    return (
        f"{len(every)} readings of {tokens:,} tokens took {format_seconds(seconds)} of a processor{clock}, on "
        f"{threads[-1]} thread, {every[0]['precision']}, on {', '.join(dates)}. "
        f"{few} of these cells have fewer than {ROUNDS} texts."
    )


def _write_table(columns: list[str], rows: list[list[str]]) -> str:
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Write the tables into the page, or print them."""
    *results, last = map(Path, sys.argv[1:])
    if last.suffix == ".md":
        write_tables(last, tabulate(read_cells(results)))
    else:
        print(tabulate(read_cells([*results, last])))


if __name__ == "__main__":
    main()
