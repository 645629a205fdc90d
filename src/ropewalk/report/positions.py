"""Pictures of positions: turns of each pair, effective scales, attraction by distance, and its reach.

They show methods before any training and trained models in the same way, because they need only the frequency of each
pair. Attraction at single distances swings too much to be readable, so it is averaged over an octave of distances.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from ropewalk.core.quantity import format_amount, format_length
from ropewalk.core.translate import translate_label
from ropewalk.report.drawn_pictures import draw_once
from ropewalk.report.figure import BASE, EXTENDED, FAINT, GRID, INK, OTHERS, Picture, draw_picture, scale_logarithmic
from ropewalk.rope.bounds import attraction, first_negative
from ropewalk.rope.frequency import count_whole_turns, plain_inv_freq, wavelengths

WIDTH_INCHES = 8.4
_STEPS_PER_OCTAVE = 6
_FIRST_TOKENS = 8
_THETAS, _BEYOND = 97, 4


@dataclass(frozen=True, slots=True, eq=False)
class Turning:
    """The frequencies of one method or model, in radians per token of each pair, under a name; ``main`` stands out."""

    name: str
    inv_freq: Float64[np.ndarray, "half"]
    colour: str
    main: bool = False

    @property
    def theta(self) -> float | None:
        """Theta of plain RoPE with these frequencies; None if no theta gives them."""
        pairs = len(self.inv_freq)
        theta = float(self.inv_freq[-1] ** (-pairs / (pairs - 1))) if pairs > 1 and self.inv_freq[-1] > 0 else 0.0
        return theta if theta > 1 and np.allclose(self.inv_freq, plain_inv_freq(theta, 2 * pairs), rtol=1e-9) else None

    @property
    def style(self) -> dict[str, Any]:
        """matplotlib's style of its line."""
        return style_line(self.colour, main=self.main)


@draw_once
def draw_turns(lines: Sequence[Turning], *, base_tokens: int, context_tokens: int) -> Picture:
    """Tokens in a whole turn of each pair.

    The first of ``lines`` is the base; its pairs without a whole turn are shaded.
    """

    def paint(figure: Any) -> None:
        axis = figure.subplots()
        axis.axvspan(known - 0.5, pairs - 0.5, color=GRID, alpha=0.6, linewidth=0)
        if known < pairs:
            axis.annotate("no full rotation in pretraining", (pairs - 0.5, 0), xycoords=("data", "axes fraction"),
                          xytext=(-5, 5), textcoords="offset points", ha="right", fontsize=8.5)  # fmt: skip
        for line in lines:
            values = wavelengths(line.inv_freq)
            axis.plot(np.arange(pairs)[np.isfinite(values)], values[np.isfinite(values)], marker="o", markersize=3,
                      label=line.name, **line.style)  # fmt: skip
        for name, tokens in {"base": base_tokens, "target": context_tokens}.items():
            axis.axhline(tokens, color=INK, linewidth=0.9, linestyle=(0, (2, 2)))
            axis.annotate(f"{name} {format_length(tokens)}", (0, tokens), xycoords=("axes fraction", "data"),
                          xytext=(4, 3), textcoords="offset points", fontsize=8.5)  # fmt: skip
        scale_logarithmic(axis, format_amount)
        axis.set_xlim(-0.5, pairs - 0.5)
        axis.set_xlabel("pair of dimensions, fastest first")
        axis.set_ylabel("tokens in a full rotation")
        axis.legend(loc="upper left", bbox_to_anchor=(0.0, 0.98))

    pairs = len(lines[0].inv_freq)
    known = count_whole_turns(lines[0].inv_freq, base_tokens)
    told = "; ".join(f"{line.name}: {wavelengths(line.inv_freq)[-1]:,.0f} tokens" for line in lines)
    return draw_picture(
        paint,
        size=(WIDTH_INCHES, 3.2),
        caption="Wavelength of each RoPE pair. Shaded: pairs that made no full rotation within the base's context, "
        "so training has not shown all their angles. Above a dashed line: no full rotation within that length.",
        alt=f"{known} of {pairs} pairs made a full rotation within {base_tokens:,} tokens. Slowest pair: {told}.",
    )


@draw_once
def draw_scales(lines: Sequence[Turning], *, base_tokens: int, context_tokens: int) -> Picture:
    """The number of new tokens that turn a pair as far as one did, by pair. The first line is the base, not drawn."""

    def paint(figure: Any) -> None:
        axis = figure.subplots()
        axis.axvspan(known - 0.5, pairs - 0.5, color=GRID, alpha=0.6, linewidth=0)
        axis.axhline(factor, color=INK, linewidth=0.9, linestyle=(0, (2, 2)))
        axis.annotate(f"target {factor:g}x", (1, factor), xycoords=("axes fraction", "data"), xytext=(-4, 3),
                      textcoords="offset points", ha="right", fontsize=8.5)  # fmt: skip
        for line in others:
            finite = np.isfinite(scales[line.name])
            axis.plot(np.arange(pairs)[finite], scales[line.name][finite], label=line.name, **line.style)
        scale_logarithmic(axis, "{:g}x".format, base=2)
        axis.set_xlim(-0.5, pairs - 0.5)
        axis.set_xlabel("pair of dimensions, fastest first")
        axis.set_ylabel("old frequency / new frequency")
        list_aside(figure, axis, {name: values[-1] for name, values in scales.items()})

    base, *others = lines
    pairs, factor = len(base.inv_freq), context_tokens / base_tokens
    known = count_whole_turns(base.inv_freq, base_tokens)
    with np.errstate(divide="ignore"):
        scales = {line.name: base.inv_freq / line.inv_freq for line in others}
    told = "; ".join(f"{name}: {values[0]:.3g} to {values[-1]:.3g}" for name, values in scales.items())
    return draw_picture(
        paint,
        size=(WIDTH_INCHES, 3.0),
        caption="Effective scale of each pair. In the shaded pairs, a line below the dashed one means angles at the "
        "target that training has not shown.",
        alt=f"Effective scale from the fastest to the slowest pair: {told}.",
    )


@draw_once
def draw_attraction(lines: Sequence[Turning], *, base_tokens: int, context_tokens: int) -> Picture:
    """The normalised B(m) by distance up to the target, averaged over windows."""

    def paint(figure: Any) -> None:
        axis = figure.subplots()
        axis.axhline(0, color=FAINT, linewidth=0.9)
        for line in lines:
            axis.plot(middles, values[line.name], label=line.name, **line.style)
        for name, tokens in {"base": base_tokens, "target": context_tokens}.items():
            axis.axvline(tokens, color=INK, linewidth=0.9, linestyle=(0, (2, 2)))
            axis.annotate(f"{name} {format_length(tokens)}", (tokens, 1), xycoords=("data", "axes fraction"),
                          xytext=(-4, 0), textcoords="offset points", ha="right", va="top", fontsize=8.5)  # fmt: skip
        scale_distances(axis, int(middles[0]), context_tokens)
        axis.set_xlabel("distance, tokens")
        axis.set_ylabel("expected attraction, B(m) / B(0)")
        list_aside(figure, axis, {name: found[-1] for name, found in values.items()})

    steps = _STEPS_PER_OCTAVE * math.ceil(math.log2(context_tokens / _FIRST_TOKENS))
    edges = np.round(context_tokens * 2.0 ** (-np.arange(steps, -1, -1) / _STEPS_PER_OCTAVE)).astype(int)
    places = np.arange(len(edges))
    edges = np.maximum.accumulate(edges - places) + places  # of some tens of tokens, two may round to one
    middles = np.sqrt(edges[:-_STEPS_PER_OCTAVE] * edges[_STEPS_PER_OCTAVE:])
    values = {line.name: _average_octaves(line.inv_freq, edges) for line in lines}
    told = "; ".join(f"{name}: {found[-1]:.2f}" for name, found in values.items())
    return draw_picture(
        paint,
        size=(WIDTH_INCHES, 3.2),
        caption="Decay of attention by distance: mean of cos(m x frequency) over all pairs, as in the Llama 2 Long "
        "and Code Llama papers, averaged over the octave of distances around each.",
        alt=f"Expected attraction at {context_tokens:,} tokens: {told}.",
    )


@draw_once
def draw_reach(lines: Sequence[Turning], *, context_tokens: int, published: Sequence[tuple[float, int]]) -> Picture:
    """The distance up to which B(m) stays positive: of each line as a bar, and of plain RoPE over theta.

    ``published`` are pairs of a theta and the length that it was trained at.
    """

    def paint(figure: Any) -> None:
        left, right = figure.subplots(1, 2, width_ratios=(1, 1.25))
        _paint_bars(left, lines, reaches, limit=limit, context_tokens=context_tokens)
        _paint_curve(right, thetas, curve, limit=limit)
        right.axhline(context_tokens, color=INK, linewidth=0.9, linestyle=(0, (2, 2)))
        right.annotate(f"target {format_length(context_tokens)}", (0, context_tokens),
                       xycoords=("axes fraction", "data"), xytext=(4, 3), textcoords="offset points",
                       fontsize=8.5)  # fmt: skip
        if shown:
            right.plot(*zip(*shown, strict=True), "D", color=INK, markersize=4.5, linestyle="none",
                   label="published run")  # fmt: skip
        for line in lines:
            if line.theta is not None:
                right.plot([line.theta], [reaches[line.name]], "o", color=line.colour, markersize=7, label=line.name)
        right.legend(loc="lower right", fontsize=8.5)

    head_dim = 2 * len(lines[0].inv_freq)
    limit = _BEYOND * context_tokens
    shown = [(theta, tokens) for theta, tokens in published if tokens <= limit]
    thetas = np.geomspace(1e3, 10 * max([1e6, *(line.theta or 0.0 for line in lines)]), _THETAS)
    reaches = {line.name: _reach(line.inv_freq, limit) for line in lines}
    curve = [_reach(plain_inv_freq(theta, head_dim), limit) for theta in thetas]
    told = "; ".join(f"{name}: {'beyond ' if tokens == limit else ''}{tokens:,}" for name, tokens in reaches.items())
    return draw_picture(
        paint,
        size=(WIDTH_INCHES, 0.9 + max(2.4, 0.27 * len(lines))),
        caption="Distance up to which similar tokens attract one another, B(m) >= 0 (Men et al., 2405.14591): a soft "
        f"bound, evaluated up to {format_length(limit)}. It is not monotone in theta."
        + (" Diamonds: the theta and length of published runs (with heads of 128)." if shown else ""),
        alt=f"Similar tokens attract up to this distance: {told}.",
    )


def _average_octaves(
    inv_freq: Float64[np.ndarray, "half"], edges: Int64[np.ndarray, "edges"]
) -> Float64[np.ndarray, "windows"]:
    """Attraction over windows; each begins at one of ``edges`` and ends an octave later."""
    sums = np.concatenate([[0.0], np.cumsum(attraction(inv_freq, edges) * np.diff(edges))])
    octave = slice(_STEPS_PER_OCTAVE, None), slice(None, -_STEPS_PER_OCTAVE)
    return np.asarray((sums[octave[0]] - sums[octave[1]]) / (edges[octave[0]] - edges[octave[1]]))


def _reach(inv_freq: Float64[np.ndarray, "half"], limit: int) -> int:
    negative = first_negative(inv_freq, limit)
    return limit if negative is None else max(1, negative - 1)


def _paint_bars(
    axis: Any, lines: Sequence[Turning], reaches: Mapping[str, int], *, limit: int, context_tokens: int
) -> None:
    rows = np.arange(len(lines))
    widths = [reaches[line.name] for line in lines]
    axis.barh(rows, widths, 0.62, color=[line.colour for line in lines])
    axis.axvline(context_tokens, color=INK, linewidth=0.9, linestyle=(0, (2, 2)))
    axis.set_xscale("log", base=2)
    axis.set_xlim(min(*widths, context_tokens) / 4, limit * 4)
    for row, width in zip(rows, widths, strict=True):
        axis.annotate(f"> {format_length(limit)}" if width == limit else f"{width:,}", (width, row), xytext=(4, 0),
                      textcoords="offset points", va="center", fontsize=8.5,
                      bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8})  # fmt: skip
    axis.set_yticks(rows, [translate_label(line.name) for line in lines])
    axis.invert_yaxis()
    axis.grid(visible=False)
    axis.tick_params(axis="y", length=0)
    ticks = [context_tokens >> 4, context_tokens >> 2, context_tokens, limit]
    axis.set_xticks(ticks, [format_length(tick) for tick in ticks])
    axis.minorticks_off()
    axis.set_xlabel("attraction up to, tokens")


def _paint_curve(axis: Any, thetas: Float64[np.ndarray, "thetas"], curve: Sequence[int], *, limit: int) -> None:
    axis.plot(thetas, curve, color=FAINT, linewidth=1.2, label="plain RoPE")
    axis.set_xscale("log")
    axis.set_yscale("log", base=2)
    powers = [power for power in range(3, 20) if thetas[0] <= 10.0**power <= thetas[-1]]
    axis.set_xticks([10.0**power for power in powers], [f"1e{power}" for power in powers])
    lowest = max(1, min(curve))
    ticks = [limit >> shift for shift in range(0, 24, 2) if limit >> shift >= lowest]
    axis.set_yticks(ticks, [format_length(tick) for tick in ticks])
    axis.minorticks_off()
    axis.set_ylim(top=limit * 2)
    axis.set_xlabel("theta")


def choose_colours(names: Sequence[str], *, main: str | None) -> dict[str, str]:
    """Orange for the first name, which is the base; blue for ``main``; another colour for each of the others."""
    others = iter(OTHERS * len(names))
    return {name: EXTENDED if name == main else BASE if name == names[0] else next(others) for name in names}


def style_line(colour: str, *, main: bool) -> dict[str, Any]:
    """The base is dashed, the main line is thick, and the others are thin."""
    return {
        "color": colour,
        "linestyle": (0, (4, 2)) if colour == BASE else "-",
        "linewidth": 2.6 if main else 1.4,
        "zorder": 3 if main else 2,
    }


def list_aside(figure: Any, axis: Any, last: Mapping[str, float]) -> None:
    """A legend beside the picture, in the order in which the lines end."""
    handles, labels = axis.get_legend_handles_labels()
    order = sorted(range(len(labels)), key=lambda index: -last[labels[index]])
    figure.legend([handles[index] for index in order], [labels[index] for index in order], loc="outside right center")


def scale_distances(axis: Any, first: int, last: int) -> None:
    """Make a logarithmic axis of lengths; its ticks are ``last`` divided by powers of two."""
    axis.set_xscale("log", base=2)
    ticks = [last >> shift for shift in range(24) if last >> shift >= first]
    step = -(-len(ticks) // 8)
    axis.set_xticks(ticks[::step], [format_length(tick) for tick in ticks[::step]])
    axis.minorticks_off()
