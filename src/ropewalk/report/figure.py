"""Makes matplotlib's SVG fit for a page: small, without own styles, ids or fonts, and safe under a strict policy.

Text stays text, so it can be searched and read aloud, and it takes the page's font. matplotlib styles every element by
a ``style`` attribute, which a page without ``unsafe-inline`` may not have. Here they become plain attributes of SVG,
and the picture looks the same.
"""

import io
import re
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from ropewalk.core.translate import translate_label, translate_text

BASE, EXTENDED = "#C2571A", "#0B5FA5"
"""Burnt orange and blue: different for every kind of colour vision, and in grey."""
INK, FAINT, GRID = "#1F2933", "#7B8794", "#E4E7EB"
OTHERS = ("#00795C", "#A23E8C", "#B07900", "#5B6B7B", "#6A51A3", "#1B9E9E", "#8C2D04", "#3F3F3F")
"""Colours of further lines."""
ROLE_COLOURS = {"general": "#0B5FA5", "domain": "#00795C", "instruction": "#A23E8C"}

SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
_POINTS_SHOWN = 400
_NAME_LETTERS = 24
_STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # names come from outside: a $ in a name is a plain $
    "font.size": 9.5,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.labelsize": 9.5,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "text.color": INK,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
}


@dataclass(frozen=True, slots=True)
class Picture:
    """A drawing as an ``<svg>`` element, with a description for people who cannot see it."""

    svg: str
    caption: str


def draw_picture(
    paint: Callable[[Any], None],
    *,
    size: tuple[float, float],
    caption: str,
    alt: str,
    names: Collection[str] = (),
) -> Picture:
    """Call ``paint`` with a matplotlib figure of ``size`` inches, and return it as inline SVG.

    ``alt`` describes the picture in words. ``caption`` is the text below the picture. ``names`` are texts of the
    picture that come from outside, such as names of sources: they are not translated, even where they read like
    ours. Labels of ticks never are.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.text import Text

    stream, given = io.StringIO(), {*map(shorten, names)}
    with rc_context(_STYLE | {"svg.hashsalt": caption}), warnings.catch_warnings():
        # The page's own fonts show the text, so missing glyphs in matplotlib's font do not matter.
        warnings.filterwarnings("ignore", message="Glyph")
        figure = Figure(figsize=size, layout="constrained")
        paint(figure)
        # The layout is computed once, here. Otherwise savefig would draw everything a second time to compute it.
        layout = figure.get_layout_engine()
        assert layout is not None
        layout.execute(figure)
        figure.set_layout_engine("none")
        # After the layout: matplotlib's font cannot measure Chinese, and English words need as much room or more.
        for text in figure.findobj(Text):
            if text.get_text() not in given:
                text.set_text(translate_label(text.get_text()))
        figure.savefig(stream, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator")))
    return Picture(_simplify(stream.getvalue(), translate_text(alt)), translate_text(caption))


def shorten(name: str) -> str:
    """A shorter name that leaves room for the picture; tables show the full name."""
    return name if len(name) <= _NAME_LETTERS else name[: _NAME_LETTERS - 1] + "…"


def thin_out(steps: Sequence[float], values: Sequence[float]) -> tuple[list[float], list[float]]:
    """At most 400 points of a curve. Each is the mean of an equal number of neighbours, so no value is left out."""
    run = -(-len(steps) // _POINTS_SHOWN) or 1
    starts = range(0, len(steps), run)
    means = [[sum(part) / len(part) for at in starts if (part := column[at : at + run])] for column in (steps, values)]
    return means[0], means[1]


def smooth(values: Sequence[float], width: int) -> list[float]:
    """Running means over up to ``width`` values, the newest last."""
    sums = list(accumulate(values, initial=0.0))
    return [(sums[end] - sums[max(0, end - width)]) / min(end, width) for end in range(1, len(values) + 1)]


def scale_logarithmic(axis: Any, format_tick: Callable[[float], str], *, base: int = 10) -> None:
    """Make ``axis.yaxis`` logarithmic. matplotlib's own labels are formulas, and parsing of formulas is off."""
    from matplotlib.ticker import FuncFormatter, NullLocator

    axis.set_yscale("log", base=base)
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: format_tick(value)))
    axis.yaxis.set_minor_locator(NullLocator())


def _simplify(text: str, alt: str) -> str:
    """The drawing without prolog, metadata, style sheets and unused ids; styles become attributes."""
    ET.register_namespace("", SVG)
    ET.register_namespace("xlink", _XLINK)
    root = ET.fromstring(text)
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', text))
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{SVG}}}metadata", f"{{{SVG}}}style"):
                parent.remove(child)
    for element in root.iter():
        if element.get("id") not in used:
            element.attrib.pop("id", None)
        for key, value in _split_style(element.attrib.pop("style", "")):
            element.set(key, value)
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.set("role", "img")
    root.set("aria-label", alt)
    return re.sub(r"\n\s*", "\n", ET.tostring(root, encoding="unicode"))


def _split_style(style: str) -> list[tuple[str, str]]:
    """``fill: #fff; font: 9px 'A', serif`` as attributes; only the size and weight of a font are kept."""
    pairs = []
    for entry in filter(None, map(str.strip, style.split(";"))):
        key, _, value = entry.partition(":")
        key, value = key.strip(), value.strip()
        if key == "font":
            size = re.search(r"([\d.]+px)", value)
            pairs += [("font-size", size[1])] if size else []
            pairs += [("font-weight", "bold")] if re.match(r"(bold|[6-9]00)\b", value) else []
        else:
            pairs.append((key, value))
    return pairs
