"""The parts of a page: headings, lines, tables, pictures. The template decides how they look."""

from collections.abc import Sequence
from dataclasses import dataclass

from ropewalk.report.figure import Picture
from ropewalk.report.table import Table


@dataclass(frozen=True, slots=True)
class TextRun:
    """Words of one document.

    ``colour`` numbers the document within its sequence; ``aside`` is a note about the words.
    """

    text: str
    colour: int
    aside: str = ""


@dataclass(frozen=True, slots=True)
class Strip:
    """A packed sequence: a bar with its documents' shares, and the words at their borders."""

    title: str
    bar: str
    runs: Sequence[TextRun]
    more: str = ""


@dataclass(frozen=True)
class Section:
    """A heading, its contents, and a note if something is missing."""

    anchor: str
    title: str
    lead: str = ""
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()
    note: str = ""
    points: Sequence[str] = ()
    """Lines of a list below the lead."""
    strips: Sequence[Strip] = ()
