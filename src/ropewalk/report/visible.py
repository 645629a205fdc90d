"""Text from outside, made safe to look at: what is not seen, or moves other characters, is spelled out.

Names and paths may hold escape sequences that steer a terminal, controls that no SVG may hold, marks that turn the
order of a line around. They are replaced where a run folder is read, once; markup is the template's business.
"""

import unicodedata
from functools import cache
from typing import Any

_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}


@cache
def show(text: str) -> str:
    """``text`` with each such character as Python writes it: ``\\x1b``, ``\\u202e``."""
    return "".join(
        char if unicodedata.category(char) not in _HIDDEN else char.encode("unicode_escape").decode() for char in text
    )


def show_all(value: Any) -> Any:
    """JSON-like data with every text in it, keys too, as ``show`` has it."""
    if isinstance(value, str):
        return show(value)
    if isinstance(value, dict):
        return {show(str(key)): show_all(entry) for key, entry in value.items()}
    return [show_all(entry) for entry in value] if isinstance(value, list) else value
