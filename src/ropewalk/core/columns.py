"""Widths in columns of a terminal: a Chinese character takes two."""

import unicodedata


def count_columns(text: str) -> int:
    """Columns that ``text`` takes on a terminal."""
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)


def pad_columns(text: str, columns: int, *, right: bool = False) -> str:
    """``text`` with blanks up to ``columns``: after it, or with ``right`` before it."""
    blanks = " " * (columns - count_columns(text))
    return blanks + text if right else text + blanks
