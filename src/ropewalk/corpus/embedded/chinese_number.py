"""Whole numbers in Chinese, as written in statutes and years: 一百零三, 二〇二四."""

_DIGITS = "〇一二三四五六七八九"
_UNITS = ("", "十", "百", "千")


def spell_digits(number: int) -> str:
    """Digit by digit, as in years and serial numbers: 2024 -> 二〇二四."""
    return "".join(_DIGITS[int(digit)] for digit in str(number))


def spell_count(number: int) -> str:
    """As a count, up to 9999: 10 -> 十, 103 -> 一百零三, 20 -> 二十."""
    assert 0 < number < 10_000
    text, skipped = "", False
    digits = [int(digit) for digit in str(number)]
    for place, digit in zip(range(len(digits) - 1, -1, -1), digits, strict=True):
        if digit:
            text += ("零" if skipped and text else "") + _DIGITS[digit] + _UNITS[place]
        skipped = not digit
    return text.removeprefix("一") if 10 <= number < 20 else text
