"""What a program writes into a page of the docs: the lines between two marks, ``<!-- NAME: begin -->`` and ``end``.

Tests read the same lines, so a page is never older than the results that it shows.
"""

from pathlib import Path


def read_tables(page: Path, name: str = "tables") -> str:
    """The text between the marks, without the line breaks around it. Raises ValueError for a page without the marks."""
    return _split(page.read_text(encoding="utf-8"), name)[1].strip("\n")


def write_tables(page: Path, text: str, name: str = "tables") -> None:
    """Put ``text`` between the marks, in place of what is there. Raises ValueError for a page without the marks."""
    before, _, after = _split(page.read_text(encoding="utf-8"), name)
    page.write_text("\n\n".join([before, text.strip("\n"), after]), encoding="utf-8")


def _split(text: str, name: str) -> tuple[str, str, str]:
    """The page up to the first mark and with it, what is between the marks, and the rest from the second mark on."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    if begin not in text or end not in text:
        raise ValueError(f"the page has no marks {begin} and {end}")
    first, last = text.index(begin) + len(begin), text.index(end)
    return text[:first], text[first:last], text[last:]
