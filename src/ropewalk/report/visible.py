"""Makes text from outside safe to display: invisible characters, and those that move other characters, are spelled out.

Names and paths may contain escape sequences that control a terminal, control characters that are invalid in SVG, or
marks that reverse the order of a line. They are replaced once, when a run folder is read. The template handles markup.
"""

import unicodedata
from functools import cache
from typing import Any

_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}


@cache
def show_hidden(text: str) -> str:
    """``text`` with each such character as Python writes it: ``\x1b``, ``\u202e``."""
    return "".join(
        char if unicodedata.category(char) not in _HIDDEN else char.encode("unicode_escape").decode() for char in text
    )


def show_all(value: Any) -> Any:
    """JSON-like data with ``show_hidden`` applied to every text in it, keys included."""
    if isinstance(value, str):
        return show_hidden(value)
    if isinstance(value, dict):
        return {show_hidden(str(key)): show_all(entry) for key, entry in value.items()}
    return [show_all(entry) for entry in value] if isinstance(value, list) else value
