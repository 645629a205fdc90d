"""The table and the picture of docs/theta.md, from what `ropewalk sweep recipes/study-theta.yaml` measured.

    python benchmarks/study_theta.py benchmarks/results/2026-11-24-study-theta.json docs/theta.md docs/theta.png

The tables are written between the page's two marks. Everything is recomputed from the cells: a mean over seeds with
Student's 95 % interval where an arm was trained, Wilson's where one model was asked once.
"""

import json
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from page_tables import write_tables
from ropewalk.core.quantity import format_length
from ropewalk.evaluate.score import Interval, mean
from ropewalk.report.figure import BASE, EXTENDED, FAINT, GRID, INK

BASE_TOKENS = 512
TARGETS = {"4x": 2048, "8x": 4096}
KINDS = ("zero-shot", "trained")
RETRIEVAL = "retrieval/key_value"
Cell = dict[str, Any]
Table = dict[tuple[str, int], float]


@dataclass(frozen=True)
class Seed:
    """What all arms share at one seed: the base's values on what it asks, and how hard its documents are far out.

    ``shift`` is the trained arms' mean loss there, less their mean over all seeds. It is taken out of every arm, since
    16 other documents differ by more than arms do (Cousineau 2005 does the same with persons).
    """

    base: Table
    shift: float = 0.0


@dataclass(frozen=True)
class Measured:
    """One arm at one target, zero-shot or trained: each value with its interval, or alone where none is known."""

    retrieval: dict[int, Interval]
    """By length in tokens: share of right answers."""
    far: Interval
    """Nats, the last quarter of the target less what the base has in the last quarter of its own 512 tokens."""
    short: Interval
    """Change of loss at the base's context against the base, mean over sources."""


def read(results: dict[str, Any], target: str) -> dict[tuple[str, str], Measured]:
    """(kind, arm) -> what was measured at a target such as ``4x``; the base is ``("base", "base")``."""
    cells: dict[tuple[str, str], list[Cell]] = defaultdict(list)
    for cell in results["cells"]:
        if cell["choices"]["length"] == target:
            cells[cell["kind"], cell["arm"] or "base"].append(cell)
    seeds = {cell["seed"]: Seed(values_of(cell)) for cell in cells["base", "base"]}
    every = [cell for (kind, _), repeats in cells.items() if kind == "trained" for cell in repeats]
    far = [(cell["seed"], _far(values_of(cell), seeds[cell["seed"]].base, TARGETS[target])) for cell in every]
    middle = fmean(value for _, value in far)
    for number, seed in seeds.items():
        seeds[number] = Seed(seed.base, fmean(value for of, value in far if of == number) - middle)
    return {key: _measure(repeats, seeds, TARGETS[target]) for key, repeats in cells.items()}


def values_of(cell: Cell) -> Table:
    """(task, context_tokens) -> value, without the depths."""
    return {key: interval[0] for key, interval in intervals_of(cell).items()}


def intervals_of(cell: Cell) -> dict[tuple[str, int], Interval]:
    """(task, context_tokens) -> (value, low, high), without the depths."""
    return {
        (task, tokens): (value, low, high)
        for task, _, tokens, depth, _, value, low, high in cell["scores"]
        if depth is None
    }


def _measure(repeats: list[Cell], seeds: dict[int, Seed], target: int) -> Measured:
    tables = {cell["seed"]: values_of(cell) for cell in repeats}
    retrieval = {}
    for task, tokens in next(iter(tables.values())):
        if task == RETRIEVAL:
            values = [table[task, tokens] for table in tables.values()]
            value, low, high = mean(values) if len(values) > 1 else intervals_of(repeats[0])[task, tokens]
            retrieval[tokens] = value, max(low, 0.0), min(high, 1.0)
    return Measured(
        retrieval=retrieval,
        far=mean([_far(table, seeds[seed].base, target) - seeds[seed].shift for seed, table in tables.items()]),
        short=mean([_change(table, seeds[seed].base) for seed, table in tables.items()]),
    )


def _far(table: Table, base: Table, target: int) -> float:
    tokens = 8 * BASE_TOKENS  # all positions are measured on documents of this length
    near = f"nll/position/{BASE_TOKENS * 3 // 4}-{BASE_TOKENS}"
    return table[f"nll/position/{target * 3 // 4}-{target}", tokens] - base[near, tokens]


def _change(table: Table, base: Table) -> float:
    sources = [key for key in table if key[0].startswith("short/")]
    return sum(table[key] / base[key] - 1 for key in sources) / len(sources)


def tabulate(results: dict[str, Any]) -> str:
    """A table for each target: retrieval by length, loss far out, short context; zero-shot and trained."""
    return "\n".join(_tabulate_target(results, target) for target in TARGETS)


def _tabulate_target(results: dict[str, Any], target: str) -> str:
    found = read(results, target)
    lengths = [BASE_TOKENS, *(tokens for tokens in (2048, 4096) if tokens >= TARGETS[target])]
    columns = [f"{format_length(tokens)}, %" for tokens in lengths] + ["far, nats", "short, %"]
    titles = [
        f"{kind}: {columns[0]}" if not number else columns[number] for kind in KINDS for number in range(len(columns))
    ]
    lines = [
        f"**Stretched to {format_length(TARGETS[target])} ({target}).**",
        "",
        f"| arm | {' | '.join(titles)} |",
        "|---" + "|---:" * len(titles) + "|",
    ]
    lines.append(f"| the base as it is | {_row(found['base', 'base'], lengths)} |" + " |" * len(columns))
    for arm in results["sweep"]["arms"]:
        lines.append(f"| `{arm}` | " + " | ".join(_row(found[kind, arm], lengths) for kind in KINDS) + " |")
    return "\n".join([*lines, ""])


def _row(measured: Measured, lengths: list[int]) -> str:
    entries = [_show(measured.retrieval[tokens], 100, "{:.1f}") for tokens in lengths]
    return " | ".join([*entries, _show(measured.far, 1, "{:+.2f}"), _show(measured.short, 100, "{:+.1f}")])


def _show(interval: Interval, scale: float, form: str) -> str:
    """``97.6 ± 1.2``: half the interval's width, where there is one."""
    value, low, high = (scale * number for number in interval)
    text = form.format(value)
    return f"{text} ± {form.replace('+', '').format((high - low) / 2)}" if high - low < float("inf") else text


def draw(results: dict[str, Any], out: Path) -> None:
    """Three measures at two targets: an arm's hollow mark before training, its full one after, with its interval."""
    from matplotlib import pyplot

    pyplot.rcParams["font.family"] = "DejaVu Sans"
    figure, axes = pyplot.subplots(2, 3, figsize=(12.4, 7.4), sharey=True, gridspec_kw={"width_ratios": [1.25, 1, 1]})
    arms = list(results["sweep"]["arms"])
    for row, target in zip(axes, TARGETS, strict=True):
        found = read(results, target)
        tokens = TARGETS[target]
        measures = (
            (f"retrieval at {format_length(tokens)}, %", 100, lambda each, tokens=tokens: each.retrieval[tokens]),
            (f"loss at {format_length(tokens)} less the base's at 512, nats", 1, lambda each: each.far),
            ("loss at 512 against the base, %", 100, lambda each: each.short),
        )
        for ax, (title, scale, pick) in zip(row, measures, strict=True):
            _draw_panel(ax, [[pick(found[kind, arm]) for arm in arms] for kind in KINDS], scale=scale)
            base = scale * pick(found["base", "base"])[0]
            ax.axvline(base, color=BASE, linewidth=1.2, linestyle=(0, (4, 2)), zorder=1)
            ax.set_title(title, loc="left", fontsize=10, fontweight="bold", color=INK)
            ax.set_yticks(range(len(arms)), arms)
        row[0].set(xlim=(0, 103), ylim=(len(arms) - 0.4, -0.6))
        row[0].set_ylabel(f"stretched to {format_length(tokens)} ({target})", fontsize=10.5, color=INK)
    _draw_legend(figure)
    figure.subplots_adjust(left=0.115, right=0.985, top=0.885, bottom=0.05, hspace=0.2, wspace=0.07)
    figure.savefig(out, dpi=100)


def _draw_panel(ax: Any, values: list[list[Interval]], *, scale: float) -> None:
    zero_shot, trained = values
    for place, (before, after) in enumerate(zip(zero_shot, trained, strict=True)):
        ends = scale * before[0], scale * after[0]
        ax.plot(ends, (place, place), color=FAINT, linewidth=1, zorder=2)
        ax.plot(ends[0], place, marker="o", markersize=7, color="white", markeredgecolor=EXTENDED, markeredgewidth=1.6)
        ax.plot(ends[1], place, marker="o", markersize=7, color=EXTENDED, zorder=3)
        if after[2] - after[1] < float("inf"):
            ax.plot((scale * after[1], scale * after[2]), (place, place), color=EXTENDED, linewidth=2.4, alpha=0.45)
    ax.grid(axis="x", color=GRID, linewidth=0.8)
    ax.set_axisbelow(True)
    ax.axhline(5.5, color=GRID, linewidth=1.2)  # thetas above, scaled frequencies below
    ax.tick_params(length=0, labelsize=9.5, labelcolor=INK)
    for side, spine in ax.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(FAINT)


def _draw_legend(figure: Any) -> None:
    from matplotlib.lines import Line2D

    hollow = {"color": "white", "markeredgecolor": EXTENDED, "markeredgewidth": 1.6}
    marks = [
        Line2D([], [], marker="o", markersize=7, linestyle="", label="before any training", **hollow),
        Line2D([], [], marker="o", markersize=7, linestyle="", color=EXTENDED, label="after 30 steps, 3 seeds, 95 %"),
        Line2D([], [], color=BASE, linewidth=1.2, linestyle=(0, (4, 2)), label="the base as it is"),
    ]
    figure.legend(handles=marks, loc="upper right", bbox_to_anchor=(0.99, 0.995), ncols=3, frameon=False, fontsize=9.5)
    title = "One tiny base, six thetas, four scalings"
    figure.text(0.012, 0.965, title, fontsize=14, fontweight="bold", color=INK)


def main(results_path: str, page: str, picture: str) -> None:
    """Write the tables into the page, between its marks, and the picture."""
    results = json.loads(Path(results_path).read_text())
    write_tables(Path(page), tabulate(results))
    draw(results, Path(picture))
    print(f"{picture}: {Path(picture).stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main(*sys.argv[1:])
