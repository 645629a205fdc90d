"""The tables and the picture of docs/ratio-study.md, from what `ropewalk sweep recipes/study-ratio.yaml` measured.

    python benchmarks/study_ratio.py RESULTS.json docs/ratio-study.md docs/ratio-study.png

The tables are written between the page's two marks. A change is against the unchanged base on the same text, seed by
seed; a mean over seeds has Student's 95 % interval. The laws are fitted again: D-CPT with all shares and without the
share 0, and a law of the tokens of a kind that were read.
"""

import json
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from page_tables import write_tables
from ratio_laws import judge_laws, list_points
from ropewalk.core.quantity import format_length
from ropewalk.evaluate.compare_arms import find_base, values_of
from ropewalk.evaluate.mix_law import hold_out_cells, predict_unseen
from ropewalk.evaluate.score import Interval, mean
from ropewalk.evaluate.study_fit import KINDS, role_loss
from ropewalk.report.figure import BASE, EXTENDED, FAINT, GRID, INK, OTHERS

BASE_TOKENS = 512
LOST = 0.01
"""A text is lost where its loss rises by more than this share of the base's."""
_GENERAL_TICKS = (-10, -5, 0, 5, 10, 20, 40, 80)
Cell = dict[str, Any]
Measure = Callable[[Cell, Cell, dict[str, str]], float]
"""(cell, base of its seed, source -> role) -> value."""


def change_of_role(role: str) -> Measure:
    """The change of the mean loss of a role's sources."""

    def measure(cell: Cell, base: Cell, roles: dict[str, str]) -> float:
        after, before = role_loss(cell, roles, role), role_loss(base, roles, role)
        assert after is not None and before is not None
        return after / before - 1

    return measure


def change_of_text(task: str) -> Measure:
    """The change of the loss of one text, such as ``foreign/essays_en``."""
    return lambda cell, base, _: values_of(cell)[task, BASE_TOKENS] / values_of(base)[task, BASE_TOKENS] - 1


def retrieval(cell: Cell, base: Cell, roles: dict[str, str]) -> float:
    """The share of right answers at the base's length."""
    return values_of(cell)["retrieval/key_value", BASE_TOKENS]


def list_measures(results: dict[str, Any]) -> dict[str, Measure]:
    """Title -> measure: both roles, each text outside the mix, retrieval."""
    tasks = [task for task, _ in values_of(results["cells"][0]) if task.startswith("foreign/")]
    foreign = {task.removeprefix("foreign/"): change_of_text(task) for task in tasks}
    roles: dict[str, Measure] = {kind: change_of_role(kind) for kind in ("domain", "general")}
    return {**roles, **foreign, "retrieval": retrieval}


def collect(results: dict[str, Any], measure: Measure) -> dict[tuple[str, int], dict[int, float]]:
    """(arm, tokens) -> seed -> value, of the trained cells."""
    found: dict[tuple[str, int], dict[int, float]] = defaultdict(dict)
    for cell in results["cells"]:
        if cell["kind"] == "trained":
            base = find_base(cell, results["cells"])
            assert base is not None
            found[cell["arm"], cell["tokens"]][cell["seed"]] = measure(cell, base, results["roles"])
    return found


def mean_of(values: dict[int, float]) -> Interval:
    """Student's interval over the seeds."""
    return mean(list(values.values()))


def apart(one: dict[int, float], other: dict[int, float]) -> Interval:
    """The mean of ``one`` minus ``other``, seed by seed."""
    return mean([one[seed] - other[seed] for seed in one if seed in other])


def tabulate(results: dict[str, Any]) -> str:
    """All tables of the page."""
    parts = (
        *(_tabulate_borders, _tabulate_arms, _tabulate_injected, _tabulate_sources),
        *(_tabulate_laws, _tabulate_held_out),
    )
    return "\n".join("\n".join(part(results)) + "\n" for part in parts)


def _tabulate_borders(results: dict[str, Any]) -> Iterator[str]:
    """By budget: which mixes inject, and which lose a text; an interval that holds the border decides nothing."""
    found = {title: collect(results, measure) for title, measure in list_measures(results).items()}
    first, *others = results["sweep"]["arms"]
    yield f"**Which mixes inject and which lose text**, by 95 % intervals; the border is {LOST:.0%}."
    yield ""
    yield "| tokens | injected | general text lost | general open | text outside the mix lost | open, of all |"
    yield "|---:|---|---|---|---|---:|"
    for tokens in sorted({tokens for _, tokens in found["domain"]}):
        arms = [arm for arm in (first, *others) if (arm, tokens) in found["domain"]]
        pairs = {
            arm: apart(found["domain"][arm, tokens], found["domain"][first, tokens]) for arm in arms if arm != first
        }
        injected = [arm for arm, (_, _, high) in pairs.items() if high < -LOST]
        lost = {arm: {title: _judge(mean_of(found[title][arm, tokens])) for title in found} for arm in arms}
        general = [_name([arm for arm in arms if lost[arm]["general"] == verdict]) for verdict in ("lost", "open")]
        texts = [title for title in found if title not in ("domain", "general", "retrieval")]
        foreign = [(lost[arm][title], f"{arm} ({title})") for arm in arms for title in texts]
        gone = _name([name for verdict, name in foreign if verdict == "lost"])
        unknown = f"{sum(verdict == 'open' for verdict, _ in foreign)} of {len(foreign)}"
        yield f"| {format_length(tokens)} | {_name(injected)} | {' | '.join(general)} | {gone} | {unknown} |"


def _judge(change: Interval) -> str:
    """``lost`` or ``kept`` where the whole interval is on one side of the border."""
    _, low, high = change
    return "lost" if low > LOST else "kept" if high <= LOST else "open"


def _name(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"


def _tabulate_arms(results: dict[str, Any]) -> Iterator[str]:
    found = {title: collect(results, measure) for title, measure in list_measures(results).items()}
    yield "**Change of the loss against the base, %, and right answers at 512 tokens, %.**"
    yield ""
    yield f"| mix | tokens | seeds | {' | '.join(found)} |"
    yield "|---|---:|---:" + "|---:" * len(found) + "|"
    for arm in results["sweep"]["arms"]:
        for tokens in sorted({tokens for its, tokens in found["domain"] if its == arm}):
            entries = [
                _show(mean_of(values[arm, tokens]), signed=title != "retrieval") for title, values in found.items()
            ]
            seeds = len(found["domain"][arm, tokens])
            yield f"| `{arm}` | {format_length(tokens)} | {seeds} | {' | '.join(entries)} |"


def _tabulate_injected(results: dict[str, Any]) -> Iterator[str]:
    measures = {title: collect(results, each) for title, each in list_measures(results).items() if title != "retrieval"}
    first, *others = results["sweep"]["arms"]
    yield f"**Paired differences to `{first}`, which has no domain text, percentage points.**"
    yield ""
    yield f"| mix | tokens | {' | '.join(measures)} |"
    yield "|---|---:" + "|---:" * len(measures) + "|"
    for arm in others:
        for tokens in sorted({tokens for its, tokens in measures["domain"] if its == arm}):
            pairs = [apart(values[arm, tokens], values[first, tokens]) for values in measures.values()]
            yield f"| `{arm}` | {format_length(tokens)} | {' | '.join(map(_show, pairs))} |"


def _tabulate_sources(results: dict[str, Any]) -> Iterator[str]:
    sources = [task for task, _ in values_of(results["cells"][0]) if task.startswith("short/")]
    largest = max(cell["tokens"] for cell in results["cells"] if cell["kind"] == "trained")
    yield f"**Change of each source's loss at {format_length(largest)} tokens, %.**"
    yield ""
    yield f"| mix | {' | '.join(task.removeprefix('short/') for task in sources)} |"
    yield "|---" + "|---:" * len(sources) + "|"
    found = {task: collect(results, change_of_text(task)) for task in sources}
    before = [
        fmean(values_of(c)[task, BASE_TOKENS] for c in results["cells"] if c["kind"] == "base") for task in sources
    ]
    yield f"| the base, nats | {' | '.join(f'{nats:.2f}' for nats in before)} |"
    for arm in results["sweep"]["arms"]:
        if (arm, largest) in found[sources[0]]:
            yield f"| `{arm}` | {' | '.join(_show(mean_of(found[task][arm, largest])) for task in sources)} |"


def _tabulate_laws(results: dict[str, Any]) -> Iterator[str]:
    yield "**The laws on what they have not seen** (asked: error at most 1 %, R2 at least 0.97)."
    yield ""
    yield "| loss | law | points | shares | held out | largest error, % | R2 | verdict |"
    yield "|---|---|---:|---|---:|---:|---:|---|"
    for title, kind, given, test in judge_laws(results):
        share = list_points(given, kind)[0]
        verdict = "accepted" if test.is_accepted else "refused"
        shares = f"{share.min():.0%} to {share.max():.0%}"
        numbers = f"{test.points} | {100 * test.error:.2f} | {test.r2:.3f}"
        yield f"| {kind} | {title} | {len(share)} | {shares} | {numbers} | {verdict} |"


def _tabulate_held_out(results: dict[str, Any]) -> Iterator[str]:
    yield "**Where D-CPT, fitted to all shares, has not seen: predicted / measured - 1, %.**"
    yield ""
    yield "| loss | share | tokens | measured, nats | error, % |"
    yield "|---|---:|---:|---:|---:|"
    for kind in KINDS:
        share, tokens, losses = list_points(results, kind)
        predicted, held = predict_unseen(share, tokens, losses), hold_out_cells(share, tokens)
        for place in sorted(np.flatnonzero(held).tolist(), key=lambda each: (tokens[each], share[each])):
            error = 100 * (predicted[place] / losses[place] - 1)
            amount = format_length(int(tokens[place]))
            yield f"| {kind} | {share[place]:.0%} | {amount} | {losses[place]:.4f} | {error:+.2f} |"


def _show(interval: Interval, *, signed: bool = True) -> str:
    """``-12.0 ± 1.2`` in per cent: half the interval's width, where there is one."""
    value, low, high = (100 * number for number in interval)
    text = f"{value:+.1f}" if signed else f"{value:.1f}"
    return f"{text} ± {(high - low) / 2:.1f}" if high - low < float("inf") else text


def draw(results: dict[str, Any], out: Path) -> None:
    """Panels over the share of domain text: loss of both roles and of foreign text, retrieval; a line for a budget."""
    from matplotlib import pyplot

    pyplot.rcParams["font.family"] = "DejaVu Sans"
    figure, axes = pyplot.subplots(2, 3, figsize=(12.4, 7.4), sharex=True)
    shares = {cell["arm"]: cell["shares"]["domain"] for cell in results["cells"] if cell["kind"] == "trained"}
    budgets = sorted({cell["tokens"] for cell in results["cells"] if cell["kind"] == "trained"})
    for ax, (title, measure) in zip(axes.flat, list_measures(results).items(), strict=False):
        found = collect(results, measure)
        is_loss = title != "retrieval"
        for colour, tokens in zip((FAINT, OTHERS[0], EXTENDED, INK), budgets, strict=False):
            arms = sorted((arm for arm, its in found if its == tokens), key=lambda arm: shares[arm])
            _draw_line(ax, [shares[arm] for arm in arms], [mean_of(found[arm, tokens]) for arm in arms], colour, tokens)
        if is_loss:
            ax.axhline(0, color=BASE, linewidth=1.2, linestyle=(0, (4, 2)), zorder=1)
            ax.axhline(100 * LOST, color=BASE, linewidth=0.8, linestyle=(0, (1, 2)), zorder=1)
        if title == "general":
            ax.set_yscale("symlog", linthresh=10)
            ax.set_yticks(_GENERAL_TICKS, [f"{tick:+d}" if tick else "0" for tick in _GENERAL_TICKS])
            ax.minorticks_off()
        if not is_loss:
            ax.set_ylim(94, 100.6)
        told = f"{title} loss against the base, %" if is_loss else "retrieval at 512 tokens, %"
        ax.set_title(told, loc="left", fontsize=10, fontweight="bold", color=INK)
        ax.grid(color=GRID, linewidth=0.8)
        ax.set_axisbelow(True)
        ax.tick_params(length=0, labelsize=9.5, labelcolor=INK)
        for spine in ax.spines.values():
            spine.set_color(FAINT)
    for ax in axes[1]:
        ax.set_xlabel("share of domain text, %", fontsize=9.5, color=INK)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="upper right", bbox_to_anchor=(0.99, 0.995), ncols=4, frameon=False, fontsize=9.5
    )
    figure.text(0.012, 0.965, "One tiny base, six mixes, four budgets", fontsize=14, fontweight="bold", color=INK)
    figure.subplots_adjust(left=0.05, right=0.985, top=0.895, bottom=0.07, hspace=0.18, wspace=0.16)
    figure.savefig(out, dpi=72)


def _draw_line(ax: Any, shares: Sequence[float], values: Sequence[Interval], colour: str, tokens: int) -> None:
    places = [100 * share for share in shares]
    middle = [100 * value for value, _, _ in values]
    ax.plot(
        places, middle, marker="o", markersize=4.5, linewidth=1.3, color=colour, label=f"{format_length(tokens)} tokens"
    )
    for place, (_, low, high) in zip(places, values, strict=True):
        if high - low < float("inf"):
            ax.plot((place, place), (100 * low, 100 * high), color=colour, linewidth=2.4, alpha=0.4)


def main(results_path: str, page: str, picture: str) -> None:
    """Write the tables into the page, between its marks, and the picture."""
    results = json.loads(Path(results_path).read_text())
    write_tables(Path(page), tabulate(results))
    draw(results, Path(picture))
    print(f"{picture}: {Path(picture).stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main(*sys.argv[1:])
