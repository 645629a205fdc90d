"""The tables of docs/harder-study.md, from what `ropewalk sweep recipes/study-tasks.yaml` measured.

    python benchmarks/study_tasks.py docs/harder-study.md RESULTS.json...

RESULTS.json has the differences to theta alone that `benchmarks/pair_study_tasks.py` wrote into it.
"""

import json
import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from page_tables import write_tables
from ropewalk.core.quantity import format_length
from ropewalk.evaluate.score import Estimate, mean_of

BASE_TOKENS = 512
READS, BETTER = 0.9, 0.15
"""A task is in the study if the base reads this share at its own length; training must add this share on three."""
TASKS = {
    "key_value": "key-value",
    "word_task_overwritten": "overwritten keys",
    "word_task_frequent": "frequent values",
    "word_task_copy": "rows to copy",
}
LEFT_OUT = {"key_value_2_hops": "two hops", "word_task_labels": "labels of items"}
TAUGHT = Path(__file__).parent / "results" / "2026-11-30-six-tasks-base.json"
"""Scores of the run that made the base: before (the tiny base, doubled) and after."""
ALONE = ("zero-shot", "all")
Values = dict[tuple[str, int], float]
Cells = Mapping[tuple[str, str], Mapping[int, Values]]


def read(results: dict[str, Any]) -> dict[tuple[str, str], dict[int, Values]]:
    """(kind, arm) -> seed -> (task, tokens) -> share of right answers, or nats where the task is a loss."""
    found: dict[tuple[str, str], dict[int, Values]] = defaultdict(dict)
    for cell in results["cells"]:
        found[cell["kind"], cell["arm"] or "base"][cell["seed"]] = {
            (task, tokens): value for task, _, tokens, depth, _, value, *_ in cell["scores"] if depth is None
        }
    return dict(found)


def find_target(results: dict[str, Any]) -> int:
    """The longest length that was asked, in tokens."""
    return max(row[2] for row in results["cells"][0]["scores"] if row[0] == "retrieval/key_value")


def average(cells: Cells, key: tuple[str, str], task: str, tokens: int) -> float:
    values = [table[f"retrieval/{task}", tokens] for table in cells[key].values()]
    return sum(values) / len(values)


def find_difference(results: dict[str, Any], arm: str, task: str, tokens: int) -> Estimate:
    """An arm less theta alone, the mean over seeds."""
    place = arm, f"retrieval/{task}", tokens
    return mean_of(
        [
            Estimate(row["value"], row["error"], row["freedom"], row["prompts"])
            for row in results["pairs"]
            if (row["arm"], row["task"], row["tokens"]) == place
        ]
    )


def list_arms(results: dict[str, Any]) -> list[str]:
    return list(dict.fromkeys(row["arm"] for row in results["pairs"]))


def read_tasks(cells: Cells) -> list[str]:
    """The tasks that the base reads at its own length."""
    return [task for task in TASKS if average(cells, ("base", "base"), task, BASE_TOKENS) >= READS]


def tabulate_taught() -> str:
    """What the base read at its own length before it was taught, and after, with Wilson's intervals."""
    scores = [row for row in json.loads(TAUGHT.read_text()) if row["depth"] is None]
    found = {(row["model"], row["task"]): row for row in scores if row["task"].startswith("retrieval/")}
    lines = [f"| task at {BASE_TOKENS} tokens | the tiny base, % | taught, % | in the study |", "|---|---:|---:|---|"]
    for task, label in (TASKS | LEFT_OUT).items():
        rows = [found[model, f"retrieval/{task}"] for model in ("base", "extended")]
        shares = [f"{100 * row['value']:.1f} [{100 * row['low']:.0f}, {100 * row['high']:.0f}]" for row in rows]
        lines.append(f"| {label} | {' | '.join(shares)} | {'yes' if rows[1]['value'] >= READS else 'no'} |")
    return "\n".join(lines) + "\n"


def tabulate_base(cells: Cells, target: int) -> str:
    """What the base reads, and what theta alone reads, at both lengths."""
    models = {"base": ("base", "base"), "theta alone": ALONE}
    lengths = (BASE_TOKENS, target)
    titles = [f"{name}: {format_length(tokens)}, %" for name in models for tokens in lengths]
    lines = [f"| task | {' | '.join(titles)} | reads {READS:.0%} |", "|---" + "|---:" * len(titles) + "|---|"]
    kept = read_tasks(cells)
    for task, label in TASKS.items():
        shares = [f"{100 * average(cells, key, task, tokens):.1f}" for key in models.values() for tokens in lengths]
        lines.append(f"| {label} | {' | '.join(shares)} | {'yes' if task in kept else 'no'} |")
    return "\n".join(lines) + "\n"


def tabulate_arms(results: dict[str, Any], cells: Cells, tokens: int) -> str:
    """Each trained arm at a length: right answers, and the difference to theta alone with its interval."""
    arms = list_arms(results)
    lines = [f"| task at {format_length(tokens)} | theta alone, % | {' | '.join(f'`{arm}`' for arm in arms)} |"]
    lines.append("|---" + "|---:" * (1 + len(arms)) + "|")
    for task, label in TASKS.items():
        row = [f"{100 * average(cells, ALONE, task, tokens):.1f}"]
        for arm in arms:
            found = find_difference(results, arm, task, tokens)
            low, high = found.interval[1:]
            share = average(cells, ("trained", arm), task, tokens)
            row.append(f"{100 * share:.1f} ({100 * found.value:+.1f} ± {100 * (high - low) / 2:.1f})")
        lines.append(f"| {label} | {' | '.join(row)} |")
    counts = [str(len(cells[key])) for key in (ALONE, *(("trained", arm) for arm in arms))]
    return "\n".join([*lines, f"| seeds | {' | '.join(counts)} |"]) + "\n"


def judge(results: dict[str, Any], kept: list[str], target: int) -> str:
    """On how many of the ``kept`` tasks an arm has 15 points more than theta alone."""
    told = []
    for arm in list_arms(results):
        better = [task for task in kept if find_difference(results, arm, task, target).value >= BETTER]
        told.append(f"`{arm}` on {len(better)}")
    return (
        f"Tasks, of the {len(kept)} that the base reads, on which an arm has {100 * BETTER:.0f} points more than theta "
        f"alone at {format_length(target)} (three are asked): {', '.join(told)}.\n"
    )


def tabulate(files: list[Path]) -> str:
    """The tables of each file; what the base reads is told by the first one, which measured it at its own length."""
    found = [json.loads(path.read_text()) for path in files]
    base = read(found[0])
    parts = [tabulate_taught()]
    for results in found:
        cells, target = read(results), find_target(results)
        parts.append(f"**At {target // BASE_TOKENS} times the base's context.**\n")
        if ("base", "base") in cells:
            parts.append(tabulate_base(cells, target))
        lengths = sorted({row["tokens"] for row in results["pairs"]}, reverse=True)
        parts += [tabulate_arms(results, cells, tokens) for tokens in lengths]
        parts.append(judge(results, read_tasks(base), target))
    return "\n".join(parts)


def main(page: Path, *results: str) -> None:
    write_tables(page, tabulate([Path(name) for name in results]))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
