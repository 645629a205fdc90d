"""A natural order of texts and numbers: 2 before 10, 第二章 before 第十章, 2021年3月 before 2021年12月.

Digits (of any width) and Chinese numerals are compared as numbers, all else as text. A value becomes a tuple, and the
tuples of all values can be compared. The tuples as bytes have the same order, so a million of them are sorted in the
memory of their letters.
"""

import re
import unicodedata
from collections.abc import Iterable
from decimal import Decimal
from types import MappingProxyType

Comparable = tuple[tuple[int, float, str], ...]
_DIGITS = MappingProxyType({**{sign: value for value, sign in enumerate("零一二三四五六七八九")}, "〇": 0, "两": 2})
_UNITS = MappingProxyType({"十": 10, "百": 100, "千": 1000})
_LARGE = MappingProxyType({"万": 10**4, "亿": 10**8})
_PARTS = re.compile(
    r"(?P<digits>[0-9]{1,300})|(?P<numeral>[零〇一二两三四五六七八九十百千万亿]{1,300})|(?P<text>[^0-9零〇一二两三四五六七八九十百千万亿]+)"
)
"""300 signs: Python reads and writes integers of at most 4,300 digits, and 亿 has eight."""
_END, _VALUE, _NUMBER, _TEXT = b"\0", b"\1", b"\2", b"\3"
_BELOW, _ZERO, _ABOVE = b"\0", b"\1", b"\2"
_COMPLEMENT = bytes(range(256))[::-1]
_EXPONENT_OF_ONE = 1 << 31


def order_naturally(value: str | int | float) -> Comparable:
    """The key by which a value is sorted."""
    if not isinstance(value, str):
        return ((0, value, ""),)
    found: list[tuple[int, float, str]] = []
    for match in _PARTS.finditer(unicodedata.normalize("NFKC", value).strip()):
        if match["text"]:
            found.append((1, 0, match["text"]))
        else:
            found.append((0, int(match["digits"]) if match["digits"] else read_numeral(match["numeral"]), ""))
    return tuple(found)


def order_as_bytes(values: Iterable[str | int | float]) -> bytes:
    """Bytes whose order is that of ``[order_naturally(value) for value in values]``; none is the beginning of another.

    A number is its sign, the place of its first digit and its digits, so all integers and floats are compared exactly.
    """
    found = []
    for value in values:
        found.append(_VALUE)
        if isinstance(value, int) or (
            isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 300
        ):
            found += (_NUMBER, _number_as_bytes(int(value)), _END)  # most ids and places in an order
            continue
        for kind, number, text in order_naturally(value):
            found += (_TEXT, text_as_bytes(text)) if kind else (_NUMBER, _number_as_bytes(number))
        found.append(_END)
    return b"".join([*found, _END])


def text_as_bytes(text: str) -> bytes:
    """Bytes whose order is that of texts; none is the beginning of another."""
    return text.encode("utf-8", "surrogatepass").replace(b"\0", b"\0\xff") + b"\0\0"


def _number_as_bytes(number: int | float) -> bytes:
    if not number:
        return _ZERO
    if isinstance(number, int):
        digits = str(abs(number))
        place = len(digits) - 1
    else:
        exact = Decimal(number)
        digits, place = "".join(map(str, exact.as_tuple().digits)), exact.adjusted()
    made = (place + _EXPONENT_OF_ONE).to_bytes(4, "big") + digits.rstrip("0").encode() + _END
    return _ABOVE + made if number > 0 else _BELOW + made.translate(_COMPLEMENT)


def read_numeral(numeral: str) -> int:
    """The number that Chinese numerals mean: 二十三 is 23, 二〇二一 is 2021, 一百零五 is 105."""
    if all(sign in _DIGITS for sign in numeral):
        return int("".join(str(_DIGITS[sign]) for sign in numeral))
    whole, section, digit = 0, 0, None
    for sign in numeral:
        if sign in _DIGITS:
            digit = (digit or 0) * 10 + _DIGITS[sign]
        elif sign in _UNITS:
            section += (1 if digit is None else digit) * _UNITS[sign]
            digit = None
        else:
            whole, section, digit = (whole + section + (digit or 0) or 1) * _LARGE[sign], 0, None
    return whole + section + (digit or 0)
