"""The columns by which documents are chosen: their distribution, and the documents on both sides of each threshold."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ropewalk.report.figure import INK, OTHERS, Picture, draw_picture, shorten
from ropewalk.report.section import Section
from ropewalk.report.table import Table

_SIZE_INCHES = (8.4, 2.2)


def make_scores(columns: Mapping[str, Sequence[Mapping[str, Any]]]) -> Section:
    """A picture and a table for each column of each source; ``columns`` as corpus/inspect/dropped reads them."""
    pages = [(source, page) for source, found in columns.items() for page in found if page["documents"]]
    lead = (
        "Documents just below a threshold should be worth less than those just above it. Where no rule uses a column, "
        "documents around four percentiles are shown."
    )
    return Section(
        "scores",
        "Scores",
        lead,
        [_tabulate(source, page) for source, page in pages],
        [_draw(source, page) for source, page in pages],
    )


def _tabulate(source: str, page: Mapping[str, Any]) -> Table:
    rows: list[list[str]] = []
    for part in page["around"]:
        bound = part["bound"] if part["value"] is None else f"{part['bound']} {part['value']:.4g}"
        for side in ("below", "above"):
            for document in part[side]:
                text = " ".join(document["text"].split())
                rows.append([f"{side} {bound}", f"{document['value']:.4g}", shorten(document["id"]), text])
    caption = f"{page['column']} of {source}: the documents that are nearest to each threshold."
    return Table(["", "value", "document", "text"], rows, "wrww", caption, quoted=3)


def _draw(source: str, page: Mapping[str, Any]) -> Picture:
    edges, counts = np.array(page["edges"]), np.array(page["counts"])

    def paint(figure: Any) -> None:
        axis = figure.subplots()
        axis.bar(edges[:-1], counts, np.diff(edges), align="edge", color=OTHERS[0])
        for part in page["around"]:
            if part["value"] is not None:
                axis.axvline(part["value"], color=INK, linewidth=0.9, linestyle=(0, (2, 2)))
        axis.set_xlabel(shorten(page["column"]))
        axis.set_ylabel("documents")

    told = ", ".join(f"percentile {at} {value:.4g}" for at, value in page["percentiles"].items())
    caption = (
        f"{page['column']} of {page['documents']:,} documents of {source}. Broken lines: thresholds, or percentiles."
    )
    alt = f"{page['column']} of {source}: {told}."
    return draw_picture(paint, size=_SIZE_INCHES, caption=caption, alt=alt, names=[page["column"]])
