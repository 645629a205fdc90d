"""The tables of docs/harder-study.md, from what `ropewalk sweep recipes/study-tasks.yaml` measured.

    python benchmarks/study_tasks.py docs/harder-study.md RESULTS.json...

Every difference is taken between two models of one seed on the same prompts, so it is paired by prompts; its interval
is Student's 95 % over the seeds, and one seed has none. Theta alone is the model before any training, at the new theta.
"""

import json
import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ropewalk.core.quantity import format_length
from ropewalk.evaluate.score import mean

BEGIN, END = "<!-- tables -->\n", "<!-- /tables -->"
BASE_TOKENS = 512
READS, BETTER = 0.9, 0.15
"""A task is in the study if the base reads this share at its own length; training must add this share on three."""
TASKS = {
    "key_value": "key-value",
    "key_value_2_hops": "two hops",
    "word_task_overwritten": "overwritten keys",
    "word_task_frequent": "frequent values",
    "word_task_labels": "labels of items",
    "word_task_copy": "rows to copy",
}
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


def difference(cells: Cells, key: tuple[str, str], task: str, tokens: int) -> tuple[float, float, float]:
    """Right answers of a model less those of theta alone, seed by seed: mean, low and high."""
    place, ours, alone = (f"retrieval/{task}", tokens), cells[key], cells[ALONE]
    return mean([ours[seed][place] - alone[seed][place] for seed in ours if seed in alone])


def read_tasks(cells: Cells) -> list[str]:
    """The tasks that the base reads at its own length."""
    return [task for task in TASKS if average(cells, ("base", "base"), task, BASE_TOKENS) >= READS]


def tabulate_base(cells: Cells, target: int) -> str:
    """What the base reads, and what theta alone reads, at both lengths."""
    models = {"base": ("base", "base"), "theta alone": ALONE}
    lengths = (BASE_TOKENS, target)
    titles = [f"{name}: {format_length(tokens)}, %" for name in models for tokens in lengths]
    lines = [f"| task | {' | '.join(titles)} | in the study |", "|---" + "|---:" * len(titles) + "|---|"]
    kept = read_tasks(cells)
    for task, label in TASKS.items():
        shares = [100 * average(cells, key, task, tokens) for key in models.values() for tokens in lengths]
        lines.append(
            f"| {label} | " + " | ".join(f"{share:.1f}" for share in shares) + f" | {'yes' if task in kept else 'no'} |"
        )
    return "\n".join(lines) + "\n"


def tabulate_arms(cells: Cells, target: int) -> str:
    """Each trained arm at the target: right answers, and the difference to theta alone with its interval."""
    arms = [arm for kind, arm in cells if kind == "trained"]
    lines = [
        f"| task at {format_length(target)} | theta alone, % | {' | '.join(arms)} |",
        "|---" + "|---:" * (1 + len(arms)) + "|",
    ]
    for task in read_tasks(cells):
        row = [f"{100 * average(cells, ALONE, task, target):.1f}"]
        for arm in arms:
            share = 100 * average(cells, ("trained", arm), task, target)
            value, low, high = (100 * number for number in difference(cells, ("trained", arm), task, target))
            half = f" ± {(high - low) / 2:.1f}" if high - low < float("inf") else ""
            row.append(f"{share:.1f} ({value:+.1f}{half})")
        lines.append(f"| {TASKS[task]} | " + " | ".join(row) + " |")
    lines.append(
        "| seeds | " + " | ".join(str(len(cells[key])) for key in (ALONE, *(("trained", arm) for arm in arms))) + " |"
    )
    return "\n".join(lines) + "\n"


def judge(cells: Cells, target: int) -> str:
    """Whether an arm meets the bar: 15 points more than theta alone on three tasks that the base reads."""
    told = []
    for arm in (arm for kind, arm in cells if kind == "trained"):
        better = [task for task in read_tasks(cells) if difference(cells, ("trained", arm), task, target)[0] >= BETTER]
        told.append(f"`{arm}` on {len(better)}")
    return (
        f"Tasks of {len(read_tasks(cells))} on which an arm has {100 * BETTER:.0f} points more than theta alone at "
        f"{format_length(target)} (three are asked): {', '.join(told)}.\n"
    )


def tabulate(files: list[Path]) -> str:
    parts = []
    for path in files:
        results = json.loads(path.read_text())
        cells, target = read(results), find_target(results)
        heading = f"**At {target // BASE_TOKENS} times the base's context.**\n"
        parts += [heading, tabulate_base(cells, target), tabulate_arms(cells, target), judge(cells, target)]
    return "\n".join(parts)


def main(page: Path, files: list[Path]) -> None:
    before, _, rest = page.read_text().partition(BEGIN)
    page.write_text(f"{before}{BEGIN}{tabulate(files)}{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]])
