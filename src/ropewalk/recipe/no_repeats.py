"""Refuses a list with an entry that is given twice, where each entry is measured or told under its own name."""

from typing import Any


def refuse_repeats(given: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return ``given``. Raises ValueError where an entry stands in it twice."""
    if twice := next((each for each in given if given.count(each) > 1), None):
        raise ValueError(f"{twice} is given twice")
    return given
