"""Lengths as multiples of the base's context: ``4``, or ``1.5`` where a target lies between two whole multiples."""

import math
from typing import Annotated

from pydantic import BeforeValidator, WithJsonSchema

from ropewalk.core.quantity import NUMBER_TEXT, parse_count


def _parse(value: object) -> int | float:
    """A number from 1; a whole one is an int, so that 2 and 2.0 are one recipe."""
    try:
        number = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else math.nan
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or number == int(number):
        number = parse_count(value)
    if number < 1:
        raise ValueError("a multiple of the base's context must be 1 or more")
    return number


Multiple = Annotated[
    int | float, BeforeValidator(_parse), WithJsonSchema({"anyOf": [{"type": "number", "minimum": 1}, NUMBER_TEXT]})
]
"""A multiple of the base's context, at least 1."""


def find_multiple(tokens: int, base_tokens: int) -> int | float:
    """``tokens`` as a multiple of ``base_tokens``, at least 1; ``count_tokens`` gives the same tokens back."""
    return max(1, tokens // base_tokens if tokens % base_tokens == 0 else tokens / base_tokens)


def count_tokens(multiple: float, base_tokens: int) -> int:
    """The tokens of ``multiple`` times ``base_tokens``, a whole number."""
    return round(multiple * base_tokens)
