"""The tables of docs/harder-study.md, from what `ropewalk sweep recipes/study-tasks.yaml` measured.

    python benchmarks/study_tasks.py pair RESULTS.json recipes/study-tasks.yaml [PATH=VALUE]...    # where the study ran
    python benchmarks/study_tasks.py table docs/harder-study.md RESULTS.json...

`pair` takes the sums of every answer that the sweep kept, and writes into RESULTS.json how each trained model differs
from theta alone, which is the model before any training at the new theta. Both were asked the same prompts, so each
difference is taken prompt by prompt. Its interval is over prompts: those of all seeds together.
"""

import json
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ropewalk.commands.sweep import SUMS
from ropewalk.commands.sweep_results import format_results
from ropewalk.core.quantity import format_length
from ropewalk.core.run_folder import RunFolder
from ropewalk.corpus.tokens.corpus_folder import open_corpus
from ropewalk.corpus.tokens.tokenizer import load_tokenizer
from ropewalk.evaluate.evaluate import describe_written, plan_measurements
from ropewalk.evaluate.retrieval import Retrieval
from ropewalk.evaluate.score import Estimate, difference, mean_of
from ropewalk.evaluate.stored_sums import find_sums
from ropewalk.recipe.sweep import Cell, load_sweep

BEGIN, END = "<!-- tables -->\n", "<!-- /tables -->"
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
Prompts = tuple[np.ndarray, np.ndarray]
"""Right answers and answers of each prompt."""


def read_prompts(cell: Cell, model: Path, store: Path) -> dict[tuple[str, int], Prompts]:
    """(task, tokens) -> what the sweep kept of a model's answers."""
    spec, folder = cell.recipe.evaluate, RunFolder(Path(cell.recipe.run))
    tokenizer = load_tokenizer(model)
    planned = plan_measurements(spec, tokenizer, corpus=open_corpus(folder.corpus), base_tokens=BASE_TOKENS)
    sums = find_sums(store, model, [each.items for each in planned], describe_written(spec, ()))
    assert sums is not None, f"{cell.name}: the study has no sums of {model}"
    found = {}
    for each, own in zip(planned, sums, strict=True):
        if isinstance(each, Retrieval):
            right = own.correct == own.count
            for items in each.by_length:
                groups = [np.unique(item.group[item.group >= 0]) for item in items]
                shares = np.array([right[asked].sum() for asked in groups], dtype=float)
                tokens = int(each.context_tokens[groups[0][0]])
                found[each.task, tokens] = shares, np.array([len(asked) for asked in groups], dtype=float)
    return found


def pair(study: Path, overrides: list[str]) -> Iterator[dict[str, Any]]:
    """Each trained arm less theta alone, of each seed, task and length: value, error and degrees of freedom."""
    sweep, cells = load_sweep(study, overrides)
    store = Path(sweep.study) / SUMS
    for seed in sweep.seeds:
        own = {(cell.kind, cell.arm): cell for cell in cells if cell.seed == seed}
        alone_folder = RunFolder(Path(own[ALONE].recipe.run)).extended(0)
        alone = read_prompts(own[ALONE], alone_folder, store)
        for (kind, arm), cell in own.items():
            if kind != "trained":
                continue
            ours = read_prompts(cell, RunFolder(Path(cell.recipe.run)).trained(0), store)
            for (task, tokens), prompts in ours.items():
                found = difference(prompts, alone[task, tokens])
                row = {"arm": arm, "seed": seed, "task": task, "tokens": tokens, "value": found.value}
                yield row | {"error": found.error, "freedom": found.freedom, "prompts": found.samples}


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


def main(verb: str, place: Path, *others: str) -> None:
    if verb == "pair":
        results = json.loads(place.read_text())
        results["pairs"] = list(pair(Path(others[0]), list(others[1:])))
        place.write_text(format_results(results))
        return
    before, _, rest = place.read_text().partition(BEGIN)
    tables = tabulate([Path(name) for name in others])
    place.write_text(f"{before}{BEGIN}{tables}{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
