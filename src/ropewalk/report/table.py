"""One table for two places: plain text for standard output, and rows that the page's template turns into HTML.

Widths are counted in columns of a terminal: a Chinese character takes two. In a file and in a log each row is one line.
On a terminal that is narrower than the table, rich folds the texts, so that the columns stay below each other.
"""

import io
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ropewalk.core.columns import count_columns, pad_columns
from ropewalk.core.translate import keep, translate_label, translate_text

_LEAST_TEXT = 12
"""Columns below which a text is not folded."""
Mark = Literal["", "pass", "fail", "open", "aim"]


@dataclass(frozen=True, slots=True)
class TableCell:
    """A text, with a mark if it is a verdict."""

    text: str
    mark: Mark = ""


@dataclass(frozen=True)
class Table:
    """Columns, rows of texts or cells, and a letter per column: ``l`` text, ``w`` text that wraps, ``r`` numbers."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str | TableCell]]
    align: str
    caption: str = ""
    total: bool = False
    """True if the last row is the sum of the others."""
    labels: int = -1
    """The column whose texts are labels of our own, which are translated even if they are one word."""
    quoted: int = -1
    """The column with words of documents, which are never translated."""

    def __post_init__(self) -> None:
        assert all(len(row) == len(self.columns) == len(self.align) for row in self.rows), self.columns

    @property
    def cells(self) -> list[list[TableCell]]:
        """Every row as cells."""
        return [[cell if isinstance(cell, TableCell) else TableCell(cell) for cell in row] for row in self.rows]

    def translated(self) -> "Table":
        """The table in the language that was asked for. Of cells, only verdicts and messages are translated."""
        rows = [
            [
                each
                if at == self.quoted
                else TableCell(
                    (translate_label if each.mark or at == self.labels else translate_text)(each.text), each.mark
                )
                for at, each in enumerate(row)
            ]
            for row in self.cells
        ]
        return replace(
            self, columns=[*map(translate_label, self.columns)], rows=rows, caption=translate_text(self.caption)
        )

    def to_text(self) -> str:
        """The table as translated text: columns as wide as their widest text, two blanks apart, a line under the head.

        On a terminal that is narrower, texts are folded; numbers never are.
        """
        told = self.translated()
        lines = [list(told.columns), *([cell.text for cell in row] for row in told.cells)]
        widths = [max(map(count_columns, column)) for column in zip(*lines, strict=True)]
        room = find_room()
        if room is not None and self._is_folded(widths, room):
            return keep(told._fold(widths, room))
        texts = ["  ".join(map(_pad, line, widths, self.align)).rstrip() for line in lines]
        return keep("\n".join([texts[0], "  ".join("-" * width for width in widths), *texts[1:]]))

    def _is_folded(self, widths: Sequence[int], room: int) -> bool:
        """Whether the table is wider than ``room`` columns, and fits if its texts are folded."""
        least = [
            width if kind == "r" else min(width, _LEAST_TEXT) for width, kind in zip(widths, self.align, strict=True)
        ]
        gaps = 2 * (len(widths) - 1)
        return sum(least) + gaps <= room < sum(widths) + gaps

    def _fold(self, widths: Sequence[int], room: int) -> str:
        """The table within ``room`` columns."""
        # Importing rich takes 30 ms, and files and logs do not need it.
        from rich.box import Box
        from rich.console import Console
        from rich.table import Table as RichTable
        from rich.text import Text

        line = Box("    \n    \n -- \n    \n    \n    \n    \n    \n", ascii=True)
        table = RichTable(box=line, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
        for name, width, kind in zip(self.columns, widths, self.align, strict=True):
            table.add_column(
                Text(name), justify="right" if kind == "r" else "left", min_width=width if kind == "r" else None,
                no_wrap=kind == "r", overflow="fold",
            )  # fmt: skip
        for row in self.cells:
            table.add_row(*(Text(cell.text) for cell in row))  # a Text, because [ ] of an interval is no markup
        written = io.StringIO()
        Console(file=written, width=room, color_system=None).print(table)
        return "\n".join(each.rstrip() for each in written.getvalue().rstrip().splitlines())


def find_room() -> int | None:
    """The columns of the terminal that standard output is; None where it is none."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def _pad(text: str, width: int, align: str) -> str:
    return pad_columns(text, width, right=align == "r")
