"""A text as it should have been written: decoded rightly, in one normal form, without what was put around it.

Works block by block (blocks.py), so that a text of 200 MB never stands in memory several times over. Only documents
that carry the signs of wrong decoding are repaired: ftfy reads 3 MB a second, the rest of this 50.
"""

import re
import unicodedata
from collections.abc import Callable

from ropewalk.corpus.clean.boilerplate import remove_boilerplate
from ropewalk.corpus.clean.pii import mask
from ropewalk.corpus.clean.quality import find_mojibake, has_mojibake_signs
from ropewalk.corpus.text.blocks import blocks_of_lines, cut_again, join_repeats, limit_breaks
from ropewalk.corpus.text.chinese import (
    convert_script,
    fit_marks,
    looks_like_gbk_as_latin,
    looks_like_wrong_gbk,
    narrow_letters,
    repair_gbk,
    repair_gbk_as_latin,
)
from ropewalk.corpus.text.language import blocks, code_points, table_of
from ropewalk.corpus.text.profile import Profile

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


def mend(text: str) -> str:
    """NFC, line breaks as one, nothing unseen. Hugging Face's own NFC differs from Unicode's; this one comes first."""
    # Two look-ups a character tell most texts that there is nothing to do, ten times faster than the expressions.
    wrong = table_of(_STARTS, _WRONG)
    if any(wrong.take(code_points(block)).any() for block in blocks(text)):
        text = _UNSEEN.sub("", _BREAKS.sub("\n", text))
    return text if text.isascii() or unicodedata.is_normalized("NFC", text) else unicodedata.normalize("NFC", text)


def mend_document(text: str, profile: Profile) -> str:
    """A whole document mended as its profile says; lines may go, so offsets into it mean nothing afterwards."""
    repair = _choose_repair(text)
    parts = list(blocks_of_lines(text))
    del text
    if profile.mojibake == "repair":
        parts = _repair_blocks(parts, repair)
    parts = [_mend_block(part, profile) for part in parts]
    if profile.boilerplate or profile.remove_lines:
        parts = remove_boilerplate(parts, profile.boilerplate, further_lines=profile.remove_lines)
    trims = profile.white_space == "trim"
    parts = limit_breaks(map(_strip_lines, parts) if trims else parts, within=trims)
    return "".join(join_repeats(parts) if profile.joins_repeats else parts)


def repair_decoding(text: str) -> str:
    """A text that was decoded wrongly, decoded rightly; any other as it is."""
    return "".join(_repair_blocks([text], _choose_repair(text)))


def _choose_repair(text: str) -> Callable[[str], str]:
    if looks_like_wrong_gbk(text):
        return repair_gbk
    return repair_gbk_as_latin if looks_like_gbk_as_latin(text) else _repair_utf8


def _repair_blocks(parts: list[str], repair: Callable[[str], str]) -> list[str]:
    """Every line by itself: what is broken in one says nothing about another."""
    repaired = [repair(part) for part in parts]
    is_same = all(new is old for new, old in zip(repaired, parts, strict=True))
    return parts if is_same else list(cut_again(repaired))


def _repair_utf8(part: str) -> str:
    if not has_mojibake_signs(part):
        return part
    from ftfy import TextFixerConfig, fix_encoding

    settings = TextFixerConfig(restore_byte_a0=True, replace_lossy_sequences=True, decode_inconsistent_utf8=True)
    lines = part.split("\n")
    return "\n".join(fix_encoding(line, settings) if find_mojibake(line) else line for line in lines)


def _strip_lines(block: str) -> str:
    return "\n".join([line.rstrip(_TRAILING) for line in block.split("\n")])


def _mend_block(block: str, profile: Profile) -> str:
    block = mend(block)
    if profile.width != "keep":
        block = narrow_letters(block)
    if profile.width == "all":
        block = fit_marks(block)
    if profile.script != "keep":
        block = convert_script(block, profile.script)
    return mask(block, profile.mask)
