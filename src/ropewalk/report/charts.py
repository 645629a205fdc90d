"""Pictures of a run's results: loss by position, retrieval, the mix, short context."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64

from ropewalk.core.quantity import format_length
from ropewalk.core.translate import keep
from ropewalk.report.drawn_pictures import draw_once
from ropewalk.report.figure import BASE, EXTENDED, FAINT, INK, OTHERS, ROLE_COLOURS, Picture, draw_picture, shorten

_WIDTH_INCHES = 8.4
_COLOURS = {"base": BASE, "zero-shot": OTHERS[0], "extended": EXTENDED}
_LINES = {"base": (0, (4, 2)), "zero-shot": (0, (1, 1)), "extended": "-"}


@dataclass(frozen=True)
class PositionLossCurve:
    """One model's loss by position: buckets from ``edges[i]`` to ``edges[i + 1]``, with 95 % intervals."""

    model: str
    buckets: Sequence[tuple[int, int]]
    values: Sequence[float]
    lows: Sequence[float]
    highs: Sequence[float]


@dataclass(frozen=True)
class RetrievalMap:
    """One model's share of right answers by length (rows) and depth (columns); nan where it was not measured."""

    model: str
    lengths: Sequence[int]
    depths: Sequence[float]
    accuracy: Float64[np.ndarray, "lengths depths"]


@dataclass(frozen=True, slots=True)
class SourcePart:
    """One source in a stage's mix: its planned and realised share of the tokens, and how often its text was read."""

    source: str
    role: str
    planned: float
    realised: float
    tokens: int
    repeats: float


@draw_once
def draw_positions(lines: Sequence[PositionLossCurve], *, marks: Mapping[str, int]) -> Picture:
    """Loss by position in the document, one line per model; ``marks`` are lengths to mark, by name."""

    def paint(figure: Any) -> None:
        axis = figure.subplots()
        for line in lines:
            colour = _COLOURS[line.model]
            middles = [(first + end) / 2 for first, end in line.buckets]
            axis.fill_between(middles, line.lows, line.highs, color=colour, alpha=0.15, linewidth=0)
            axis.plot(middles, line.values, color=colour, linestyle=_LINES[line.model], marker="o", markersize=3.5,
                      label=line.model)  # fmt: skip
        for name, tokens in marks.items():
            axis.axvline(tokens, color=INK, linewidth=0.9, linestyle=(0, (2, 2)))
            axis.annotate(f"{name} {format_length(tokens)}", (tokens, 1), xycoords=("data", "axes fraction"),
                          xytext=(-4, 0), textcoords="offset points", ha="right", va="top", fontsize=8.5)  # fmt: skip
        _scale_lengths(axis, sorted({end for line in lines for _, end in line.buckets}))
        axis.set_xlabel("position in the document, tokens")
        axis.set_ylabel("loss, nats per token")
        axis.legend(loc="best")

    told = "; ".join(f"{line.model}: {line.values[0]:.2f} first, {line.values[-1]:.2f} last" for line in lines)
    return draw_picture(
        paint,
        size=(_WIDTH_INCHES, 3.3),
        caption="Loss by position on held-out documents, the same for all models; bands are 95 % intervals.",
        alt=f"Loss by position, nats per token: {told}.",
    )


@draw_once
def draw_retrieval(maps: Sequence[RetrievalMap], *, trained_tokens: int, task: str) -> Picture:
    """Right answers in percent by length and depth, one map per model, side by side."""

    def paint(figure: Any) -> None:
        axes = figure.subplots(1, max(2, len(maps)), squeeze=False)[0]
        for axis, grid in zip(axes, maps, strict=False):
            _paint_map(axis, grid, trained_tokens)
        axes[0].set_ylabel("context, tokens")
        for axis in axes[len(maps) :]:
            axis.set_visible(False)

    rows = max(len(grid.lengths) for grid in maps)
    told = "; ".join(f"{grid.model}: {_tell_map(grid)}" for grid in maps)
    return draw_picture(
        paint,
        size=(_WIDTH_INCHES, 1.1 + 0.42 * rows),
        caption=f"{task}: right answers in percent, by context length and position of the fact in the prompt (0 is "
        "the start). Lengths with * are longer than any trained length.",
        alt=f"{task}, right answers: {told}.",
    )


@draw_once
def draw_grid(rows: Mapping[str, Sequence[RetrievalMap]], *, trained_tokens: int, task: str) -> Picture:
    """Right answers in percent by length and depth: a row of maps for each filler, a column for each model."""
    columns = max(2, *map(len, rows.values()))

    def paint(figure: Any) -> None:
        grid = figure.subplots(len(rows), columns, squeeze=False)
        for axes, (filler, maps) in zip(grid, rows.items(), strict=True):
            for axis, each in zip(axes, maps, strict=False):
                _paint_map(axis, each, trained_tokens)
            axes[0].set_ylabel(f"{filler}\ncontext, tokens")
            for axis in axes[len(maps) :]:
                axis.set_visible(False)

    lengths = max(len(each.lengths) for maps in rows.values() for each in maps)
    told = "; ".join(f"{filler}: {each.model}: {_tell_map(each)}" for filler, maps in rows.items() for each in maps)
    return draw_picture(
        paint,
        size=(_WIDTH_INCHES, len(rows) * (1.0 + 0.36 * lengths)),
        caption=f"{task}: right answers in percent, by filler, context length and position of the fact (0 is the "
        "start). Lengths with * are longer than any trained length.",
        alt=f"{task}, right answers: {told}.",
    )


@draw_once
def draw_mixture(parts: Sequence[SourcePart]) -> Picture:
    """Planned and realised share of the tokens side by side: first roles, then sources."""

    def paint(figure: Any) -> None:
        axis = figure.subplots()
        rows = np.arange(len(bars)) + np.where(np.arange(len(bars)) < len(roles), 0.0, 0.6)
        colours = [ROLE_COLOURS.get(bar.role, FAINT) for bar in bars]
        planned, realised = (np.array([getattr(bar, name) for bar in bars]) * 100 for name in ("planned", "realised"))
        axis.barh(rows - 0.19, planned, 0.34, color="none", edgecolor=colours, linewidth=1.2)
        axis.barh(rows + 0.19, realised, 0.34, color=colours, edgecolor=colours, linewidth=1.2)
        for row, plan, real in zip(rows, planned, realised, strict=True):
            axis.annotate(f"{plan:.1f} / {real:.1f}", (max(plan, real), row), xytext=(5, 0),
                          textcoords="offset points", va="center", fontsize=8.5)  # fmt: skip
        axis.set_yticks(rows, [shorten(bar.source) for bar in bars])
        _lay_flat(axis)
        axis.margins(x=0.12, y=0.02)
        axis.set_xlabel("share of the tokens, %: planned / realised")

    roles = [_sum_role(role, parts) for role in dict.fromkeys(part.role for part in parts)]
    bars = [*roles, *parts]
    told = keep(", ".join(f"{bar.source} {bar.planned:.1%} / {bar.realised:.1%}" for bar in bars))
    return draw_picture(
        paint,
        size=(_WIDTH_INCHES, 0.7 + 0.3 * len(bars)),
        caption="Planned (outline) and realised (filled) share of the tokens, by role and by source. "
        "Blue: general, green: domain, purple: instruction.",
        alt=f"Planned and realised share of the tokens: {told}.",
    )


@draw_once
def draw_changes(changes: Mapping[str, tuple[float, float, float]], *, limit: float) -> Picture:
    """The relative change of a loss by source as (change, low, high); ``limit`` marks the largest allowed change."""

    def paint(figure: Any) -> None:
        axis = figure.subplots()
        rows = np.arange(len(changes))
        values, lows, highs = np.array(list(changes.values())).T * 100
        axis.barh(rows, values, 0.55, color=np.where(values > limit * 100, BASE, EXTENDED))
        axis.hlines(rows, lows, highs, color=INK, linewidth=1.2)
        axis.axvline(0, color=FAINT, linewidth=0.8)
        axis.axvline(limit * 100, color=INK, linewidth=0.9, linestyle=(0, (2, 2)))
        axis.annotate(f"allowed {limit:+.0%}", (limit * 100, 1), xycoords=("data", "axes fraction"), ha="right",
                      xytext=(2, 2), textcoords="offset points", va="bottom", fontsize=8.5)  # fmt: skip
        axis.set_yticks(rows, [shorten(name) for name in changes])
        _lay_flat(axis)
        axis.margins(x=0.1, y=0.02)
        axis.set_xlabel("change of the loss, %")

    told = keep(", ".join(f"{name} {value:+.1%}" for name, (value, _, _) in changes.items()))
    return draw_picture(
        paint,
        size=(_WIDTH_INCHES, 0.9 + 0.26 * len(changes)),
        caption="Held-out text at the base's own context: relative change of the loss, extended against base; "
        "lines are 95 % intervals.",
        alt=f"Change of the short-context loss: {told}.",
    )


def _paint_map(axis: Any, grid: RetrievalMap, trained_tokens: int) -> None:
    percent = grid.accuracy * 100
    axis.pcolormesh(np.ma.masked_invalid(percent), cmap="Blues", vmin=0, vmax=125, edgecolors="white", linewidth=1.5)
    for (row, column), value in np.ndenumerate(percent):
        text = "–" if np.isnan(value) else f"{value:.0f}"
        colour = "white" if value > 70 else INK
        axis.text(column + 0.5, row + 0.5, text, ha="center", va="center", color=colour, fontsize=9)
    stars = ["*" if tokens > trained_tokens else "" for tokens in grid.lengths]
    labels = [f"{format_length(tokens)}{star}" for tokens, star in zip(grid.lengths, stars, strict=True)]
    axis.set_yticks(np.arange(len(labels)) + 0.5, labels)
    axis.set_xticks(np.arange(len(grid.depths)) + 0.5, [f"{depth:.0%}" for depth in grid.depths])
    axis.invert_yaxis()
    axis.grid(visible=False)
    axis.tick_params(length=0)
    for spine in axis.spines.values():
        spine.set_visible(False)
    axis.set_title(grid.model, color=_COLOURS[grid.model])
    axis.set_xlabel("depth")


def _sum_role(role: str, parts: Sequence[SourcePart]) -> SourcePart:
    own = [part for part in parts if part.role == role]
    planned, realised = sum(part.planned for part in own), sum(part.realised for part in own)
    return SourcePart(role, role, planned, realised, sum(part.tokens for part in own), 0.0)


def _lay_flat(axis: Any) -> None:
    """Set up horizontal bars: the first one on top, and a grid for reading their lengths."""
    axis.invert_yaxis()
    axis.grid(axis="y", visible=False)
    axis.grid(axis="x", visible=True)
    axis.tick_params(axis="y", length=0)


def _tell_map(grid: RetrievalMap) -> str:
    means = [float(np.nanmean(row)) if np.isfinite(row).any() else float("nan") for row in grid.accuracy]
    pairs = zip(grid.lengths, means, strict=True)
    return ", ".join(f"{mean:.0%} at {format_length(tokens)}" for tokens, mean in pairs)


def _scale_lengths(axis: Any, ends: Sequence[int]) -> None:
    """Make a logarithmic axis of lengths; its ticks are the longest length divided by powers of two."""
    axis.set_xscale("log", base=2)
    ticks = [ends[-1] >> shift for shift in range(12) if ends[-1] >> shift >= max(1, ends[0] // 2)]
    axis.set_xticks(ticks, [format_length(tick) for tick in ticks], minor=False)
    axis.minorticks_off()
