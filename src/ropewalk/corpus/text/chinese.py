"""Handles Chinese text: its script, the width of its letters, and text whose bytes were read in the wrong encoding.

There is no character table of our own. GB 2312 holds the simplified characters and Big5 the traditional ones. So a
character that only one of the two can encode shows the script.
"""

import re
from functools import cache
from typing import Any, Literal

import numpy as np
from ftfy.badness import is_bad
from jaxtyping import UInt8

from ropewalk.core.error import UserError, explain_import_fault
from ropewalk.corpus.text.language import code_points

_FIRST, _LAST = 0x4E00, 0x9FFF
_CODE_POINTS = 0x110000
_WIDE_FORMS = range(0xFF10, 0xFF5B)
_WIDE = {code: code - 0xFEE0 for code in _WIDE_FORMS if chr(code).isalnum()}
_WIDE_LETTER = re.compile("[０-９Ａ-Ｚａ-ｚ]")
_HAN = "\u3400-\u4dbf\u4e00-\u9fff"
_NARROW_MARK = re.compile(rf"(?<=[{_HAN}”》）])[,;:?!](?=[{_HAN}“《（\n]|$)")
_WIDE_MARK = re.compile(r"(?<=[A-Za-z])[，；：？！](?=[ A-Za-z]|$)")
_MARKS = dict(zip(",;:?!", "，；：？！", strict=True))
# UTF-8 read as GBK: the commonest characters and marks turn into these. No Chinese text writes them twice on a page.
_WRONG_GBK = re.compile("[锛鐨銆浠鍦涓鏄鍜](?=[\u0080-\u9fff])")
_SIGNS_PER_CHARACTER = 0.01
# GBK read as Latin-1: the comma, the full stop and the two commonest characters.
_GBK_AS_LATIN = ("£¬", "¡£", "µÄ", "ÊÇ")
_WINDOWS_BYTES = {ord(bytes([byte]).decode("cp1252", "replace")): byte for byte in range(0x80, 0xA0)}
_WINDOWS_BYTES.pop(0xFFFD)
_HEAD = 4096
"""Characters at the beginning of a text that are examined."""


@cache
def _script_table() -> UInt8[np.ndarray, "code_points"]:
    """For each code point 1 if it is only simplified, 2 if it is only traditional, else 0. Only the common block of Han
    has such characters."""
    lines = "\n".join(map(chr, range(_FIRST, _LAST + 1)))  # no character of two bytes holds the byte of a line break
    simplified, traditional = (
        np.array([len(line) > 0 for line in lines.encode(name, "ignore").split(b"\n")]) for name in ("gb2312", "big5")
    )
    table = np.zeros(_CODE_POINTS, dtype=np.uint8)
    table[_FIRST : _LAST + 1] = (simplified & ~traditional) + 2 * (traditional & ~simplified).astype(np.uint8)
    return table


def traditional_share(text: str) -> float | None:
    """Share of traditional characters among those of only one script; None where there is no such character."""
    _, simplified, traditional = np.bincount(_script_table().take(code_points(text)), minlength=3).tolist()
    return traditional / (simplified + traditional) if simplified + traditional else None


def narrow_letters(text: str) -> str:
    """Convert full-width letters and digits to half width."""
    return text.translate(_WIDE) if _WIDE_LETTER.search(text) else text


def fit_marks(text: str) -> str:
    """Convert punctuation to the width of its script: full width between Han, half width between Latin letters."""
    text = _NARROW_MARK.sub(lambda found: _MARKS[found[0]], text)
    return _WIDE_MARK.sub(lambda found: next(half for half, full in _MARKS.items() if full == found[0]), text)


def looks_like_wrong_gbk(text: str) -> bool:
    """Whether UTF-8 bytes were read as GBK: the text has the signs of it, and its bytes are mostly valid UTF-8."""
    head = text[:_HEAD]
    signs = len(_WRONG_GBK.findall(head))
    if signs <= 2 or signs <= _SIGNS_PER_CHARACTER * len(head):
        return False
    read = head.encode("gb18030", "replace").decode("utf-8", "replace")
    return 2 * read.count("\ufffd") < sum(not letter.isascii() for letter in read)


def looks_like_gbk_as_latin(text: str) -> bool:
    """Whether GBK bytes were read as Latin-1 or Windows-1252: the text has the signs of the commonest characters."""
    head = text[:_HEAD]
    if not any(sign in head for sign in _GBK_AS_LATIN):
        return False
    read = "".join(map(_read_as_gbk, head.split("\n")))
    common = sum(len(letter.encode("gb2312", "ignore")) == 2 and letter.encode("gb2312") < b"\xd8" for letter in read)
    return is_bad(head) and 3 * common > 2 * sum(not letter.isascii() for letter in read)


def repair_gbk(text: str) -> str:
    """Repair text whose UTF-8 was read as GBK, line by line. A line whose bytes were lost stays unchanged."""
    return "\n".join(map(_repair_line, text.split("\n")))


def repair_gbk_as_latin(text: str) -> str:
    """Repair text whose GBK was read as Latin-1 or Windows-1252, in the same way."""
    return "\n".join(map(_read_as_gbk, text.split("\n")))


def _repair_line(line: str) -> str:
    try:
        return line.encode("gb18030").decode("utf-8")
    except UnicodeError:
        return line


def _read_as_gbk(line: str) -> str:
    try:
        return line.translate(_WINDOWS_BYTES).encode("latin-1").decode("gb18030")
    except UnicodeError:
        return line


def convert_script(text: str, script: Literal["simplified", "traditional"]) -> str:
    """Convert the text to ``script``, phrase by phrase. Raises UserError where the library is missing."""
    return str(_converter("t2s" if script == "simplified" else "s2t").convert(text))


@cache
def _converter(name: str) -> Any:
    try:
        from opencc import OpenCC
    except ImportError as fault:
        raise UserError(
            "converting Chinese script needs another library",
            where="profile.script",
            why=explain_import_fault(fault, "opencc"),
            fix="pip install 'ropewalk[chinese]', or profile.script: keep",
        ) from None
    return OpenCC(name)
