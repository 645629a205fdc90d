"""A natural order of texts and numbers: 2 before 10, 第二章 before 第十章, 2021年3月 before 2021年12月.

Digits (of any width) and Chinese numerals are compared as numbers, all else as text. A value becomes a tuple, and the
tuples of all values can be compared.
"""

import re
import unicodedata
from types import MappingProxyType

Comparable = tuple[tuple[int, float, str], ...]
_DIGITS = MappingProxyType({**{sign: value for value, sign in enumerate("零一二三四五六七八九")}, "〇": 0, "两": 2})
_UNITS = MappingProxyType({"十": 10, "百": 100, "千": 1000})
_LARGE = MappingProxyType({"万": 10**4, "亿": 10**8})
_PARTS = re.compile(
    r"(?P<digits>[0-9]{1,300})|(?P<numeral>[零〇一二两三四五六七八九十百千万亿]+)|(?P<text>[^0-9零〇一二两三四五六七八九十百千万亿]+)"
)


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
