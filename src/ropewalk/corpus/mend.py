"""A text as it should have been written: decoded rightly, in one normal form, without what was put around it.

Works block by block, cut where lines end, so that a text of 200 MB never stands in memory several times over. Only
documents that carry the signs of wrong decoding are repaired: ftfy reads 3 MB a second, the rest of this 50.
"""

import re
import unicodedata
from collections.abc import Iterator
from itertools import groupby
from operator import eq

from ropewalk.corpus.boilerplate import remove_boilerplate
from ropewalk.corpus.chinese import convert_script, fit_marks, looks_like_wrong_gbk, narrow_letters, repair_gbk
from ropewalk.corpus.language import code_points, table_of
from ropewalk.corpus.measures import MOJIBAKE, MOJIBAKE_SIGNS
from ropewalk.corpus.personal import mask
from ropewalk.corpus.profile import Profile

_BLOCK_CHARACTERS = 1 << 20
_BREAKS = re.compile(r"\r\n?|[\x0b\x0c\x85\u2028\u2029]")
# Controls, byte-order marks, zero-width spaces and joiners, non-characters: nothing that a reader sees.
_UNSEEN = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x9f\ufeff\u200b\u2060\ufffe\uffff]")
_TRAILING = " \t\xa0\u3000"
# First code point of each run, and whether one of the two expressions above knows it.
_RUNS = (
    (0x0, 1), (0x9, 0), (0xB, 1), (0x20, 0), (0x7F, 1), (0xA0, 0), (0x200B, 1), (0x200C, 0), (0x2028, 1), (0x202A, 0),
    (0x2060, 1), (0x2061, 0), (0xFEFF, 1), (0xFF00, 0), (0xFFFE, 1), (0x10000, 0),
)  # fmt: skip
_STARTS, _WRONG = tuple(start for start, _ in _RUNS), tuple(wrong for _, wrong in _RUNS)
_BLANK_LINES = re.compile(r"\n{4,}")
_FIRST_CHARACTERS = 1 << 16


def mend(text: str) -> str:
    """NFC, line breaks as one, nothing unseen. Hugging Face's own NFC differs from Unicode's; this one comes first."""
    # Two look-ups a character tell most texts that there is nothing to do, ten times faster than the expressions.
    if table_of(_STARTS, _WRONG).take(code_points(text)).any():
        text = _UNSEEN.sub("", _BREAKS.sub("\n", text))
    return text if text.isascii() or unicodedata.is_normalized("NFC", text) else unicodedata.normalize("NFC", text)


def mend_document(text: str, profile: Profile) -> str:
    """A whole document mended as its profile says; lines may go, so offsets into it mean nothing afterwards."""
    if profile.mojibake == "repair":
        text = repair_decoding(text)
    text = "".join(_mend_block(block, profile) for block in blocks_of_lines(text))
    if profile.boilerplate or profile.remove_lines:
        text = remove_boilerplate(text, profile.boilerplate, further_lines=profile.remove_lines)
    text = "".join(_strip_lines(block) for block in blocks_of_lines(text))
    text = _BLANK_LINES.sub("\n\n\n", text).strip("\n")
    return join_repeats(text) if profile.joins_repeats else text


def mend_piece(text: str, profile: Profile) -> str:
    """A span of a document that keeps its place among others: no line is taken away."""
    return mask(mend(text), profile.mask)


def repair_decoding(text: str) -> str:
    """A text that was decoded wrongly, decoded rightly; any other as it is."""
    if text.isascii():
        return text
    if looks_like_wrong_gbk(text):
        return repair_gbk(text)
    if not any(sign in text for sign in MOJIBAKE_SIGNS) or MOJIBAKE.search(text) is None:
        return text
    from ftfy import TextFixerConfig, fix_encoding

    # Segments by line: what is broken in one line says nothing about another.
    settings = TextFixerConfig(restore_byte_a0=True, replace_lossy_sequences=True, decode_inconsistent_utf8=True)
    lines = text.split("\n")
    return "\n".join(fix_encoding(line, settings) if MOJIBAKE.search(line) else line for line in lines)


def blocks_of_lines(text: str) -> Iterator[str]:
    """A text in parts of about a million characters that end where a line does, if one does."""
    start = 0
    while len(text) - start > _BLOCK_CHARACTERS:
        end = text.find("\n", start + _BLOCK_CHARACTERS) + 1
        if end <= 0:
            break
        yield text[start:end]
        start = end
    yield text[start:] if start else text


def join_repeats(text: str) -> str:
    """Four or more equal lines in a row as one."""
    lines = text.split("\n")
    if not any(map(eq, lines, lines[3:])):
        return text
    return "\n".join(line for line, copies in _runs(lines) for _ in range(copies))


def _strip_lines(block: str) -> str:
    return "\n".join([line.rstrip(_TRAILING) for line in block.split("\n")])


def _runs(lines: list[str]) -> Iterator[tuple[str, int]]:
    for line, equal in groupby(lines):
        copies = sum(1 for _ in equal)
        yield line, 1 if copies >= 4 else copies


def _mend_block(block: str, profile: Profile) -> str:
    block = mend(block)
    if profile.width != "keep":
        block = narrow_letters(block)
    if profile.width == "all":
        block = fit_marks(block)
    if profile.script != "keep":
        block = convert_script(block, profile.script)
    return mask(block, profile.mask)
