"""What a part of the page is made of: a heading, lines, tables, pictures; how it looks is the template's business."""

from collections.abc import Sequence
from dataclasses import dataclass

from ropewalk.report.figure import Picture
from ropewalk.report.table import Table


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
