"""Reads and writes counts: lengths in powers of two (``16Ki``), amounts in powers of ten (``20B``).

The two never mix. Both kinds accept ``16K``, which always means 16,000; ``256Ki`` never means 256,000.
"""

import re
import sys
from typing import Annotated, Any, TypeGuard

from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema

COUNT = "count"
"""The title that marks a count in a JSON Schema."""
_UNITS = {
    "": 1,
    "K": 10**3,
    "M": 10**6,
    "B": 10**9,
    "T": 10**12,
    "Ki": 2**10,
    "Mi": 2**20,
    "Gi": 2**30,
}
_NUMBER = r"([0-9][0-9_]*(?:\.[0-9]+)?(?:[eE][0-9]+)?)"
_PATTERN = re.compile(rf"\s*{_NUMBER}\s*([A-Za-z]*)\s*")
_TOO_MANY = 2.0**63
_LARGEST_FLOAT = sys.float_info.max


def is_finite(value: object) -> TypeGuard[int | float]:
    """Whether a value of a file or of a user's function is a number that a float can hold: no yes/no, NaN or 10^400."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and -_LARGEST_FLOAT <= value <= _LARGEST_FLOAT  # type: ignore[operator]


def parse_count(value: object) -> int:
    """Read ``4096``, ``"16Ki"``, ``"20B"`` or ``1e6`` as a whole number; raise ValueError for anything else."""
    if isinstance(value, bool):
        raise ValueError("a yes/no is not a count")
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return _whole(value, str(value))
    match = _PATTERN.fullmatch(str(value))
    if match is None or match[2] not in _UNITS:
        raise ValueError(
            f"{value!r} is not a count such as 4096, 16Ki, 20B or 1e6 (units: {', '.join(list(_UNITS)[1:])})"
            f"{_suggest(str(value))}"
        )
    return _whole(float(match[1].replace("_", "")) * _UNITS[match[2]], str(value))


def format_length(tokens: int) -> str:
    """A length in powers of two if it is a multiple of one: 16384 -> ``16Ki``, 1000 -> ``1000``."""
    for unit in ("Gi", "Mi", "Ki"):
        if tokens >= _UNITS[unit] and tokens % _UNITS[unit] == 0:
            return f"{tokens // _UNITS[unit]}{unit}"
    return str(tokens)


def format_amount(amount: float) -> str:
    """An amount to three figures in powers of ten: 20_971_520 -> ``21.0M``."""
    amount = float(f"{amount:.3g}")  # rounded first: 999,999 is 1M and not 1e+03K
    for unit in ("T", "B", "M", "K"):
        if abs(count := amount / _UNITS[unit]) >= 1:
            return f"{count:,.0f}{unit}" if abs(count) >= 1000 else f"{count:.3g}{unit}"  # T is the largest
    return f"{amount:.3g}"


def format_count(number: int, noun: str) -> str:
    """A count with its noun, in the singular for one: ``1 file``, ``2,048 files``, ``3 batches``, ``2 copies``."""
    if number == 1:
        return f"1 {noun}"
    if noun.endswith(("s", "x", "ch", "sh")):
        return f"{number:,} {noun}es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return f"{number:,} {noun[:-1]}ies"
    return f"{number:,} {noun}s"


def format_seconds(seconds: float) -> str:
    """A time in its two largest units: 7980 -> ``2 h 13 min``."""
    whole = round(seconds)
    days, hours, minutes = whole // 86400, whole // 3600 % 24, whole // 60 % 60
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"


def format_bytes(amount: float) -> str:
    """Bytes in powers of two to three figures: 1_572_864 -> ``1.5 MiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(amount) < 1023.5:  # 1,000 to 1,023 have four figures
            return f"{amount:.4g} {unit}" if abs(amount) >= 999.5 else f"{amount:.3g} {unit}"
        amount /= 1024
    return f"{amount:.4g} TiB"


def _suggest(text: str) -> str:
    """A hint for ``16k``, ``16KiB`` or ``16,384``: all meanings that are possible."""
    match = _PATTERN.fullmatch(text.replace(",", ""))
    if match is None:
        return ""
    number, unit = float(match[1].replace("_", "")), match[2].lower().removesuffix("tokens").removesuffix("b")
    if match[2].lower() == "b":
        return f"; did you mean {match[1]}B?"
    spellings = {"": [""], "k": ["Ki", "K"], "m": ["Mi", "M"], "g": ["Gi", "B"], "t": ["T"]}
    spellings |= {"ki": ["Ki"], "mi": ["Mi"], "gi": ["Gi"]}
    meant = [
        f"{match[1]}{own} ({int(number * _UNITS[own]):,})" if own.endswith("i") else str(int(number * _UNITS[own]))
        for own in spellings.get(unit, ())
    ]
    if len(meant) == 2:
        return f"; did you mean {meant[0]} or {meant[1]}?"
    return f"; did you mean {meant[0]}?" if meant else ""


def _whole(number: float, text: str) -> int:
    if not abs(number) < _TOO_MANY:
        raise ValueError(f"{text} is too large")
    if number != int(number):
        raise ValueError(f"{text} is not a whole number")
    return int(number)


def _spell(least: int) -> dict[str, Any]:
    """The JSON Schema of a count: a whole number, also as ``2e5``, or a text with a unit."""
    number = {"type": "number", "minimum": least, "multipleOf": 1}
    text = {"type": "string", "pattern": rf"^\s*{_NUMBER}\s*({'|'.join(_UNITS)})\s*$"}
    return {"title": COUNT, "anyOf": [number, text]}


def _parse_open(value: object) -> int:
    if value == "auto":
        return OPEN
    count = parse_count(value)
    if count < 1:
        raise ValueError("a count must be 1 or more; auto leaves it open")
    return count


NUMBER_TEXT: dict[str, Any] = {"type": "string", "pattern": r"^\s*[-+]?(\d[\d_]*\.?\d*|\.\d+)([eE][-+]?\d+)?\s*$"}
"""In a JSON Schema: a number as the text that YAML 1.1 makes of ``2e-5``."""
OPEN = 0
"""A count that is left open, ``auto`` in a recipe: something decides it before anything counts with it."""
Count = Annotated[int, BeforeValidator(parse_count), Field(ge=0), WithJsonSchema(_spell(0))]
PositiveCount = Annotated[int, BeforeValidator(parse_count), Field(gt=0), WithJsonSchema(_spell(1))]
OpenCount = Annotated[
    int,
    BeforeValidator(_parse_open),
    PlainSerializer(lambda count: count or "auto", when_used="json"),
    WithJsonSchema({"anyOf": [_spell(1), {"const": "auto", "type": "string"}]}),
]
"""A positive count, or ``auto``."""
