"""What a part of the page is made of: a heading, lines, tables, pictures; how it looks is the template's business."""

from collections.abc import Sequence
from dataclasses import dataclass

from ropewalk.report.figure import Picture
from ropewalk.report.table import Table


@dataclass(frozen=True, slots=True)
class Run:
    """Words of one document; ``colour`` numbers the document within its row. ``aside`` is what is said of it."""

    text: str
    colour: int
    aside: str = ""


@dataclass(frozen=True, slots=True)
class Strip:
    """A row of tokens: a bar of its documents' shares, and the words at their borders."""

    title: str
    bar: str
    runs: Sequence[Run]
    more: str = ""


@dataclass(frozen=True)
class Section:
    """A heading, what stands under it, and a note where something is missing."""

    anchor: str
    title: str
    lead: str = ""
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()
    note: str = ""
    points: Sequence[str] = ()
    """Lines of a list below the lead."""
    strips: Sequence[Strip] = ()
