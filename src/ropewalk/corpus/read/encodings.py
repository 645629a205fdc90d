"""Finds the encoding of a text file: by its byte-order mark, else by the source's option. Errors name a guess.

The guess is only a hint. Each encoding in use is tried; the guess is the encoding whose text consists mostly of common
characters of its language. Common characters are the letters and, for Han, the characters that the older standards
list first.
"""

import codecs
from collections.abc import Callable, Iterator
from types import MappingProxyType

_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),  # stands first, because it begins like the mark of UTF-16
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (codecs.BOM_UTF8, "utf-8"),
)
_SAMPLE_BYTES = 4096
_SURE = 0.7
_ZEROS, _KANA, _SPACES = 0.2, 0.1, 0.1


def marked_encoding(head: bytes) -> str | None:
    """The encoding of a file by its byte-order mark; None where there is no mark."""
    return next((name for mark, name in _MARKS if head.startswith(mark)), None)


def is_wide(encoding: str) -> bool:
    """Whether a line break takes more than one byte, so that lines cannot be split before they are decoded."""
    return encoding.startswith(("utf-16", "utf-32"))


def to_utf8(chunks: Iterator[bytes], encoding: str, errors: str) -> Iterator[bytes]:
    """Convert chunks from ``encoding`` to UTF-8, without the byte-order mark. Raises UnicodeDecodeError."""
    decoder = codecs.getincrementaldecoder(encoding)(errors)
    for chunk in chunks:
        yield decoder.decode(chunk).encode("utf-8", "surrogatepass")
    yield decoder.decode(b"", final=True).encode("utf-8", "surrogatepass")


def guess_encoding(content: bytes, at: int, encoding: str) -> str:
    """A hint for an error at byte ``at``: another encoding that fits the text around it; empty where none fits."""
    best = find_encoding(content, at, encoding)
    return f"; it can be read as {_SPOKEN.get(best, best)}: set options: {{encoding: {best}}}" if best else ""


def find_encoding(content: bytes, at: int, encoding: str) -> str:
    """Another encoding that fits the text around byte ``at``; empty where none fits."""
    begin = content.rfind(b"\n", 0, at) + 1
    sample = content[begin : begin + _SAMPLE_BYTES]
    wide = len(sample) > 1 and sample.count(0) > _ZEROS * len(sample)
    names = ("utf-16-le", "utf-16-be") if wide else _COMMON
    shares = {name: _share(sample, name) for name in names if name != encoding}
    best = max(shares, key=lambda name: shares[name], default="")
    if not best or shares[best] < _SURE:
        best = "gb18030" if encoding != "gb18030" and _is_mostly_han(sample) else ""
    return best


def _share(sample: bytes, encoding: str) -> float:
    """Share of the non-ASCII characters of ``sample`` that are common in the language of ``encoding``."""
    try:
        text = codecs.getincrementaldecoder(encoding)().decode(sample)
    except UnicodeDecodeError:
        return 0.0
    if encoding.startswith("utf-16"):
        return sum(character.isprintable() or character in "\r\n\t" for character in text) / max(1, len(text))
    foreign = [character for character in text if character > "\x7f"]
    if not foreign:
        return 0.0
    # EUC bytes are valid in Chinese, Japanese and Korean at once. Japanese text has kana, and Korean text has spaces.
    if encoding in ("shift_jis", "euc_jp") and sum(map(_is_kana, foreign)) < _KANA * len(foreign):
        return 0.0
    if encoding == "euc_kr" and text.count(" ") < _SPACES * len(foreign):
        return 0.0
    # Nearly every byte is a letter in Russian encodings. Words of Russian have no other letters, and the accents of
    # Western languages stand between Latin ones.
    if encoding in ("cp1251", "koi8_r") and _count_among_latin(text) > len(foreign) / 2:
        return 0.0
    return sum(map(_COMMON[encoding], foreign)) / len(foreign)


def _count_among_latin(text: str) -> int:
    """How many characters beyond ASCII have a letter of ASCII beside them, and none beyond it."""
    padded = f" {text} "
    beside = ((padded[at - 1], padded[at + 1]) for at in range(1, len(padded) - 1) if padded[at] > "\x7f")
    return sum(max(pair) <= "\x7f" and any(map(str.isalpha, pair)) for pair in beside)


def _is_mostly_han(sample: bytes) -> bool:
    """Whether the sample reads as Chinese with rare characters. No other encoding looks like this."""
    text = sample.decode("gb18030", "ignore")
    return sum("\u4e00" <= character <= "\u9fff" for character in text) > len(text) / 2


def _is_sign(character: str) -> bool:
    return "\u3000" <= character <= "\u303f" or "\uff01" <= character <= "\uff5e" or character in "—…“”‘’·"


def _is_kana(character: str) -> bool:
    return "\u3041" <= character <= "\u30ff"


def _among_first(encoding: str, first: int, last: int) -> Callable[[str], bool]:
    """Make a test for Han characters in common use: their first byte in ``encoding`` is from ``first`` to ``last``."""

    def test(character: str) -> bool:
        code = character.encode(encoding, "ignore")
        return len(code) == 2 and first <= code[0] <= last and "\u3400" <= character <= "\u9fff"

    return test


_GB, _BIG, _JIS = (
    _among_first("gb2312", 0xB0, 0xD7),
    _among_first("big5", 0xA4, 0xC6),
    _among_first("cp932", 0x88, 0x98),
)


def _is_chinese(character: str) -> bool:
    return _GB(character) or _BIG(character) or _is_sign(character)


def _is_japanese(character: str) -> bool:
    return _is_kana(character) or _JIS(character) or _is_sign(character)


def _is_korean(character: str) -> bool:
    return "\uac00" <= character <= "\ud7a3" or _is_sign(character)


def _is_russian(character: str) -> bool:
    return "а" <= character <= "ё"


def _is_western(character: str) -> bool:
    return character in "äöüßàâçéèêëîïôùûñóáíúÄÖÜÉ«»„“”’–"


_COMMON = MappingProxyType[str, Callable[[str], bool]](
    {
        "shift_jis": _is_japanese,
        "euc_jp": _is_japanese,
        "euc_kr": _is_korean,
        "gb18030": _is_chinese,
        "big5": _is_chinese,
        "cp1251": _is_russian,
        "koi8_r": _is_russian,
        "cp1252": _is_western,
    }
)
_SPOKEN = MappingProxyType(
    {"shift_jis": "Shift-JIS", "euc_jp": "EUC-JP", "euc_kr": "EUC-KR", "gb18030": "GB 18030", "big5": "Big5"}
)
