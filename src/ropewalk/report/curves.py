"""Pictures of training over steps: loss, gradient, rate, loss of sources and buckets, held-out text, and speed."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ropewalk.core.quantity import format_amount
from ropewalk.core.translate import keep
from ropewalk.report.contents import Curve
from ropewalk.report.drawn_pictures import draw_once
from ropewalk.report.figure import (
    EXTENDED,
    FAINT,
    ROLE_COLOURS,
    Picture,
    draw_picture,
    scale_logarithmic,
    shorten,
    smooth,
    thin_out,
)

_WIDTH_INCHES = 8.4
_SMOOTH_SHARE = 0.04
_ABREAST = 4

Border = tuple[int, str]
"""The step at which a stage begins, and the stage's name."""


@draw_once
def draw_training(loss: Curve, norm: Curve, rate: Curve, *, borders: Sequence[Border]) -> Picture:
    """Draw training loss above, gradient norm and learning rate below, over the steps of the run."""

    def paint(figure: Any) -> None:
        axes = figure.subplots(3, 1, sharex=True, height_ratios=(3, 1, 1))
        _plot_smoothed(axes[0], loss)
        axes[0].set_title("training loss, nats per token")
        _plot_smoothed(axes[1], norm)
        axes[1].set_title("gradient norm")
        if norm.values and max(norm.values) > 20 * sorted(norm.values)[len(norm.values) // 2] > 0:
            scale_logarithmic(axes[1], "{:g}".format)
        axes[2].plot(*thin_out(rate.steps, rate.values), color=EXTENDED)
        axes[2].set_title("learning rate")
        axes[2].set_ylim(bottom=0)
        axes[2].set_xlabel("step")
        _count_steps(axes[2], most=9)
        for axis in axes:
            _mark_stages(axis, borders, named=axis is axes[0])

    first, last = (loss.values[0], smooth(loss.values, _smooth_width(loss))[-1]) if loss.values else (math.nan,) * 2
    return draw_picture(
        paint,
        size=(_WIDTH_INCHES, 4.6),
        caption="Thin: every step. Thick: running mean over 4 % of the steps.",
        alt=f"Training loss goes from {first:.2f} to {last:.2f} nats per token.",
    )


@draw_once
def draw_sources(curves: Mapping[str, Curve], *, roles: Mapping[str, str], borders: Sequence[Border]) -> Picture:
    """One small picture per source: its loss at each validation, coloured by role."""
    return _draw_each(
        curves,
        colours={name: ROLE_COLOURS.get(roles.get(name, ""), FAINT) for name in curves},
        borders=borders,
        caption="Training loss by source, nats per token over steps; each chart has its own scale. "
        "Blue: general, green: domain, purple: instruction.",
        what="Training loss by source at the end, in nats per token",
        names=curves,
    )


@draw_once
def draw_buckets(curves: Mapping[str, Curve], *, kind: str, borders: Sequence[Border]) -> Picture:
    """One small picture per bucket of positions or of documents' lengths: its loss at each validation."""
    return _draw_each(
        curves,
        colours=dict.fromkeys(curves, EXTENDED),
        borders=borders,
        caption=f"Training loss by {kind}, nats per token over steps; each chart has its own scale.",
        what=f"Training loss by {kind} at the end, in nats per token",
    )


@draw_once
def draw_held_out(curves: Mapping[str, Curve], *, borders: Sequence[Border]) -> Picture:
    """One small picture per figure that was measured on held-out text during training."""
    return _draw_each(
        curves,
        colours=dict.fromkeys(curves, EXTENDED),
        borders=borders,
        caption="Held-out text while training. full and truncated: loss of long documents' last tokens, nats, with all "
        "their context and with truncated context; full-truncated: their difference, negative where the full context "
        "helps; "
        "short and change/short: loss at the base's own context by source, and its share above the base's; retrieval: "
        "right answers; answer_loss: their loss, nats; retrieval_heads: share of attention that the base's retrieval "
        "heads put on the facts.",
        what="Held-out metrics at the end",
    )


def _draw_each(
    curves: Mapping[str, Curve],
    *,
    colours: Mapping[str, str],
    borders: Sequence[Border],
    caption: str,
    what: str,
    names: Collection[str] = (),
) -> Picture:
    def paint(figure: Any) -> None:
        axes = figure.subplots(rows, _ABREAST, sharex=True, squeeze=False).ravel()
        for axis, (name, curve) in zip(axes, curves.items(), strict=False):
            # A single validation makes no visible line, so it gets a marker.
            axis.plot(*thin_out(curve.steps, curve.values), color=colours[name], marker="o" * (len(curve.steps) == 1))
            axis.set_title(shorten(name), color=colours[name], fontsize=9)
            axis.locator_params(axis="y", nbins=4)
            _count_steps(axis, most=3)
            axis.margins(y=0.15)
            _mark_stages(axis, borders, named=False)
        for axis in axes[len(curves) :]:
            axis.set_visible(False)

    rows = -(-len(curves) // _ABREAST)
    told = keep(", ".join(f"{name} {curve.values[-1]:.2f}" for name, curve in curves.items()))
    size = (_WIDTH_INCHES, 0.4 + 1.3 * rows)
    return draw_picture(paint, size=size, caption=caption, alt=f"{what}: {told}.", names=names)


@draw_once
def draw_speed(speed: Curve, mfu: Curve, imbalance: Curve, *, borders: Sequence[Border]) -> Picture:
    """Tokens per second, MFU, and the attention work of the busiest rank over the mean, over steps."""

    def paint(figure: Any) -> None:
        from matplotlib.ticker import FuncFormatter

        left, middle, right = figure.subplots(1, 3)
        _plot_smoothed(left, speed)
        left.set_title("tokens per second")
        left.set_ylim(bottom=0)
        left.yaxis.set_major_formatter(FuncFormatter(lambda value, _: format_amount(value)))
        _plot_smoothed(middle, mfu)
        middle.set_title("MFU")
        middle.set_ylim(bottom=0)
        middle.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.3g} %"))
        _plot_smoothed(right, imbalance)
        right.set_title("busiest rank's attention / mean")
        right.set_ylim(bottom=min(1.0, *imbalance.values) if imbalance.values else 1.0)
        for axis in (left, middle, right):
            axis.set_xlabel("step")
            _count_steps(axis, most=6)
            _mark_stages(axis, borders, named=False)

    return draw_picture(
        paint,
        size=(_WIDTH_INCHES, 2.3),
        caption="Speed as measured on the machine of the run; MFU counts the query-key pairs of its sequences; an "
        "imbalance of 1 is perfect.",
        alt="Over steps: tokens per second, model FLOPs utilisation, imbalance of attention over ranks.",
    )


def _plot_smoothed(axis: Any, curve: Curve) -> None:
    axis.plot(*thin_out(curve.steps, curve.values), color=EXTENDED, alpha=0.3, linewidth=0.9)
    axis.plot(*thin_out(curve.steps, smooth(curve.values, _smooth_width(curve))), color=EXTENDED)
    axis.margins(x=0.01)


def _count_steps(axis: Any, *, most: int) -> None:
    """Put whole numbers on the axis, about ``most`` of them."""
    from matplotlib.ticker import MaxNLocator

    axis.xaxis.set_major_locator(MaxNLocator(nbins=most, integer=True, steps=[1, 2, 5, 10]))


def _smooth_width(curve: Curve) -> int:
    return max(1, round(len(curve.values) * _SMOOTH_SHARE))


def _mark_stages(axis: Any, borders: Sequence[Border], *, named: bool) -> None:
    for step, name in borders:
        if step:
            axis.axvline(step, color=FAINT, linewidth=0.8, linestyle=(0, (2, 2)))
        if named and len(borders) > 1:
            seen = max(step, axis.get_xlim()[0])  # the picture of a short run begins after step 0
            axis.annotate(name, (seen, 1), xycoords=("data", "axes fraction"), xytext=(3, -2),
                          textcoords="offset points", va="top", fontsize=8, color=FAINT)  # fmt: skip
