"""Widths in columns of a terminal: a Chinese character takes two."""

import unicodedata


def count_columns(text: str) -> int:
    """Columns that ``text`` takes on a terminal."""
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)
