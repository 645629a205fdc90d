"""One table for two places: plain text in a terminal, and rows that the page's template turns into HTML.

Names and paths come from outside, so whatever could steer a terminal or reorder a line (escape sequences, controls,
bidirectional marks) is made visible here; what could be markup is escaped by the template.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Mark = Literal["", "pass", "fail", "aim"]

_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}


@dataclass(frozen=True, slots=True)
class Cell:
    """A text, and whether it is a verdict."""

    text: str
    mark: Mark = ""


@dataclass(frozen=True)
class Table:
    """Columns, rows of texts or cells, and one letter per column: ``l`` for text, ``r`` for numbers."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]
    align: str
    caption: str = ""

    def __post_init__(self) -> None:
        assert all(len(row) == len(self.columns) == len(self.align) for row in self.rows), self.columns

    @property
    def cells(self) -> list[list[Cell]]:
        """Every row as cells whose text is safe to show."""
        rows = [[cell if isinstance(cell, Cell) else Cell(cell) for cell in row] for row in self.rows]
        return [[Cell(show(cell.text), cell.mark) for cell in row] for row in rows]

    def to_text(self) -> str:
        """Columns as wide as their widest text, two blanks between, a line under the header."""
        lines = [list(self.columns), *([cell.text for cell in row] for row in self.cells)]
        widths = [max(map(_width, column)) for column in zip(*lines, strict=True)]
        texts = ["  ".join(map(_pad, line, widths, self.align)).rstrip() for line in lines]
        return "\n".join([texts[0], "  ".join("-" * width for width in widths), *texts[1:]])


def show(text: object) -> str:
    """``text`` with every character that is not seen, or that moves others, spelled out: ``\\x1b``, ``\\u202e``."""
    return "".join(
        char if unicodedata.category(char) not in _HIDDEN else char.encode("unicode_escape").decode()
        for char in str(text)
    )


def _pad(text: str, width: int, align: str) -> str:
    blanks = " " * (width - _width(text))
    return text + blanks if align == "l" else blanks + text


def _width(text: str) -> int:
    """Columns on a terminal: Chinese and other wide characters take two."""
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)
