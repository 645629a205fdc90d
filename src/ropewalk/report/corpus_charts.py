"""Pictures of a corpus: the lengths of its documents, and the growth of the mix over the sequences of a stage."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ropewalk.core.quantity import format_amount, format_length
from ropewalk.core.translate import keep
from ropewalk.report.drawn_pictures import draw_once
from ropewalk.report.figure import INK, OTHERS, ROLE_COLOURS, Picture, draw_picture, shorten

_WIDTH_INCHES = 8.4
_MARKS = (8192, 32768, 131072)


@draw_once
def draw_lengths(lengths: Mapping[str, Any], roles: Mapping[str, str]) -> Picture:
    """Share of all tokens by the length of their document, in powers of two, stacked by role."""
    edges = np.array(lengths["from_tokens"])
    stacks = {role: np.zeros(len(edges)) for role in ROLE_COLOURS if role in roles.values()}
    for name, counted in lengths["sources"].items():
        stacks[roles[name]] += np.array(counted["tokens"])
    total = sum(stack.sum() for stack in stacks.values())
    used = np.flatnonzero(sum(stacks.values()))
    first, last = int(used.min()), int(used.max()) + 1

    def paint(figure: Any) -> None:
        axis = figure.subplots()
        below = np.zeros(last - first)
        places = np.arange(first, last)
        for role, stack in stacks.items():
            share = stack[first:last] / total * 100
            axis.bar(places + 0.5, share, 0.86, bottom=below, color=ROLE_COLOURS[role], label=role)
            below += share
        for mark in _MARKS:
            place = int(np.searchsorted(edges, mark))
            if first < place < last:
                axis.axvline(place, color=INK, linewidth=0.9, linestyle=(0, (2, 2)))
        labels = [format_length(int(edge)) for edge in edges[first:last]]
        axis.set_xticks(places, labels)
        axis.set_xlabel("tokens of the document, from")
        axis.set_ylabel("share of all tokens, %")
        axis.legend(loc="best")

    shares = {int(edges[at]): sum(stack[at] for stack in stacks.values()) / total for at in used}
    told = ", ".join(f"{format_length(edge)}: {share:.0%}" for edge, share in shares.items())
    caption = "Training tokens, by the length of their document. Dashed lines: 8Ki, 32Ki, 128Ki."
    return draw_picture(
        paint, size=(_WIDTH_INCHES, 3.0), caption=caption, alt=f"Tokens by length of document, from: {told}."
    )


@draw_once
def draw_prefixes(stage: Mapping[str, Any]) -> Picture:
    """Every source's share of the tokens so far, over the sequences of a stage; the planned share is a broken line."""
    prefixes = stage["prefixes"]
    given = np.array(list(prefixes["tokens"].values()), dtype=float)
    share = given / given.sum(axis=0) * 100
    colours = {name: OTHERS[number % len(OTHERS)] for number, name in enumerate(prefixes["tokens"])}
    lines = sorted(zip(colours, share, strict=True), key=lambda line: -line[1][-1])

    def paint(figure: Any) -> None:
        axis = figure.subplots()
        for name, line in lines:
            axis.axhline(stage["planned"][name] * 100, color=colours[name], linewidth=0.9, linestyle=(0, (4, 3)))
            axis.plot(prefixes["sequences"], line, color=colours[name], label=shorten(name))
        axis.set_xlabel("sequences given")
        axis.set_ylabel("share of the tokens so far, %")
        # after the first few sequences the shares are far off the plan, up to 100 %
        axis.set_ylim(0, min(100, 150 * max(stage["planned"].values())))
        axis.set_xlim(0, prefixes["sequences"][-1])
        axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))

    told = keep(", ".join(f"{name} {stage['planned'][name]:.1%} / {line[-1] / 100:.1%}" for name, line in lines))
    total = format_amount(given[:, -1].sum())
    caption = f"Share of each source in the tokens so far, {total} at the end; dashed lines: planned."
    alt = f"Planned and realised shares: {told}."
    return draw_picture(paint, size=(_WIDTH_INCHES, 3.2), caption=caption, alt=alt, names=colours)
