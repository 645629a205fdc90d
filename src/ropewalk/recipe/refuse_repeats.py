"""Refuses a list that names something twice, where each entry is measured by itself.

The same prompts would be read twice and counted as twice as many samples, so an interval would look narrower than it
is.
"""

from typing import TypeVar

Entry = TypeVar("Entry")


def refuse_repeats(given: tuple[Entry, ...]) -> tuple[Entry, ...]:
    """``given``. Raises ValueError where an entry is there twice."""
    if twice := next((each for each in given if given.count(each) > 1), None):
        raise ValueError(f"{twice} is there twice, and would count as twice as many samples; leave one out")
    return given
