"""One table for two places: plain text in a terminal, and rows that the page's template turns into HTML.

Widths are counted in columns of a terminal: a Chinese character takes two.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

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

    def __post_init__(self) -> None:
        assert all(len(row) == len(self.columns) == len(self.align) for row in self.rows), self.columns

    @property
    def cells(self) -> list[list[TableCell]]:
        """Every row as cells."""
        return [[cell if isinstance(cell, TableCell) else TableCell(cell) for cell in row] for row in self.rows]

    def to_text(self) -> str:
        """The table as text: each column as wide as its widest text, two blanks between, a line under the header."""
        lines = [list(self.columns), *([cell.text for cell in row] for row in self.cells)]
        widths = [max(map(_width, column)) for column in zip(*lines, strict=True)]
        texts = ["  ".join(map(_pad, line, widths, self.align)).rstrip() for line in lines]
        return "\n".join([texts[0], "  ".join("-" * width for width in widths), *texts[1:]])


def _pad(text: str, width: int, align: str) -> str:
    blanks = " " * (width - _width(text))
    return text + blanks if align in "lw" else blanks + text


def _width(text: str) -> int:
    """Columns on a terminal: Chinese and other wide characters take two."""
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)
