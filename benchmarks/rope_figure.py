"""The picture of docs/rope.md: how many times slower each method turns each pair, from Llama 2 at 4Ki to 16Ki tokens.

    python benchmarks/rope_figure.py docs/rope-frequencies.png

Drawn from the same values that a model is built with, so it cannot go stale in silence: it needs no model and takes
two seconds.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import numpy as np
from jaxtyping import Float64
from matplotlib import pyplot
from matplotlib.axes import Axes

from ropewalk.report.figure import BASE, EXTENDED, FAINT, GRID, INK
from ropewalk.rope.frequency import plain_inv_freq, wavelengths
from ropewalk.rope.method import BaseRope, Method
from ropewalk.rope.scaling import (
    Dynamic,
    Linear,
    Llama3,
    LongRope,
    Nope,
    Ntk,
    NtkByParts,
    Proportional,
    Resonance,
    Theta,
    Unchanged,
    Yarn,
)

LLAMA2 = BaseRope(theta=1e4, head_dim=128, context_tokens=4096)
TARGET, TIMES = 16384, 4
PAIRS = np.arange(64)
STILL = 160.0
"""Where a pair that does not turn is drawn."""
KNOWN = int(np.count_nonzero(wavelengths(plain_inv_freq(1e4, 128)) <= LLAMA2.context_tokens))
"""Pairs that made a whole turn in training: the others meet new angles unless they turn 4 times slower."""
LIST = tuple(float(factor) for factor in 1 + 3.4 / (1 + np.exp(-(PAIRS - 36) / 3.5)))


@dataclass(frozen=True)
class Panel:
    """One method, the rule in a few words, and the document lengths at which it is drawn, longest last."""

    method: Method
    rule: str
    lengths: tuple[int, ...] = (TARGET,)


PANELS = (
    Panel(Unchanged(), "as it was trained"),
    Panel(Linear(), "every pair, 4 times"),
    Panel(Ntk(), "theta 40,890: the slowest, 4 times"),
    Panel(Theta(theta="auto"), "theta auto: 500,000"),
    Panel(NtkByParts(), "the slow ones; a ramp between"),
    Panel(Yarn(), "the same, and scores sharpened"),
    Panel(Llama3(), "the slow ones; a blend between"),
    Panel(LongRope(long_factor=LIST), "a list of one's own, for long documents", (4096, TARGET)),
    Panel(Dynamic(), "documents of 4Ki, 8Ki, 16Ki", (4096, 8192, TARGET)),
    Panel(Resonance(of=Yarn()), "of yarn: whole tokens per turn"),
    Panel(Proportional(share=0.72), "share 0.72: slow pairs stand still"),
    Panel(Nope(), "no pair turns"),
)


def slowdown(method: Method, tokens: int) -> Float64[np.ndarray, "half"]:  # noqa: F821 - an axis
    """How many times slower than the base's each pair turns in a document of ``tokens``; infinite where it stands."""
    with np.errstate(divide="ignore"):
        return np.asarray(plain_inv_freq(1e4, 128) / method.inv_freq_at(tokens, 1e4, 128))


def draw(ax: Axes, panel: Panel) -> None:
    """One panel: the method in blue, the base dashed, and where a pair still meets angles that are new to it."""
    method = panel.method.complete(LLAMA2, TARGET)
    ax.fill_between([KNOWN - 0.5, 63.5], 0.6, TIMES, color=BASE, alpha=0.15, linewidth=0)
    ax.axhline(1, color=BASE, linewidth=1.2, linestyle=(0, (4, 2)))
    for tokens, alpha in zip(reversed(panel.lengths), (1.0, 0.5, 0.3), strict=False):
        values = slowdown(method, tokens)
        turning = np.isfinite(values)
        ax.plot(PAIRS[turning], values[turning], color=EXTENDED, linewidth=2.2, alpha=alpha, zorder=3)
        ax.plot(PAIRS[~turning], np.full((~turning).sum(), STILL), color=EXTENDED, linewidth=4.5, zorder=3)
    ax.text(0, 1.135, method.kind, transform=ax.transAxes, fontsize=11.5, fontweight="bold", color=INK)
    ax.text(0, 1.03, panel.rule, transform=ax.transAxes, fontsize=9, color=INK)
    if method.attention_factor != 1:
        sharper = f"cosine, sine \u00d7 {method.attention_factor:.3f}"
        ax.text(0.97, 0.84, sharper, transform=ax.transAxes, fontsize=8.5, color=INK, ha="right")
    ax.set_yscale("log")
    ax.set(xlim=(-0.5, 63.5), ylim=(0.75, 220), xticks=[0, 16, 32, 48, 63])
    ax.set_yticks([1, 4, 16, 64, STILL], ["1", "4", "16", "64", "stands"])
    ax.minorticks_off()
    ax.grid(axis="y", color=GRID, linewidth=0.8)
    ax.set_axisbelow(True)
    ax.tick_params(length=0, labelsize=8.5, labelcolor=INK)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        ax.spines[side].set_color(FAINT)


def zoom(ax: Axes, method: Method) -> None:
    """The fastest pairs of a resonance, whose changes are percents."""
    inner = ax.inset_axes((0.11, 0.36, 0.42, 0.4))
    values = slowdown(method.complete(LLAMA2, TARGET), TARGET)[:13]
    inner.axhline(1, color=BASE, linewidth=1, linestyle=(0, (4, 2)))
    inner.plot(PAIRS[:13], values, color=EXTENDED, linewidth=1, marker="o", markersize=2.6)
    inner.set(ylim=(0.94, 1.06), xlim=(-0.5, 12.5), xticks=[0, 12], yticks=[0.95, 1, 1.05])
    inner.tick_params(length=0, labelsize=7, labelcolor=INK, pad=1.5)
    for spine in inner.spines.values():
        spine.set_color(GRID)


def main(out: str) -> None:
    """Draw all panels into the PNG ``out``."""
    pyplot.rcParams["font.family"] = "DejaVu Sans"
    figure, axes = pyplot.subplots(3, 4, figsize=(12.4, 8.6), sharex=True, sharey=True)
    for ax, panel in zip(axes.flat, PANELS, strict=True):
        draw(ax, panel)
        if panel.method.kind == "resonance":
            zoom(ax, panel.method)
    first, second = axes.flat[:2]
    second.text(3, 1.2, "the base", fontsize=8.5, color=BASE)
    first.annotate(
        "angles that are\nnew at 16Ki",
        (55, 1.9),
        (27, 20),
        fontsize=8.5,
        color=BASE,
        arrowprops={"arrowstyle": "-", "color": BASE},
    )
    figure.suptitle(
        "How many times slower each pair turns: Llama 2, from 4Ki to 16Ki tokens",
        x=0.058,
        y=0.985,
        ha="left",
        fontsize=14,
        fontweight="bold",
        color=INK,
    )
    figure.supxlabel("pair of dimensions, the fastest first", fontsize=10, color=INK, y=0.012)
    figure.supylabel("times slower than the base (log scale)", fontsize=10, color=INK, x=0.008)
    figure.subplots_adjust(left=0.068, right=0.988, top=0.875, bottom=0.075, hspace=0.42, wspace=0.1)
    figure.savefig(out, dpi=100)
    print(f"{out}: {Path(out).stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main(sys.argv[1])
