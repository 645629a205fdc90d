"""Mends a text: repairs wrong decoding, converts the text to one normal form, and removes boilerplate.

It works block by block (blocks.py), so that a text of 200 MB is never in memory several times. Only documents with
signs of wrong decoding are repaired, because ftfy reads 3 MB a second and the other steps read 50.
"""

import re
import unicodedata
from collections.abc import Callable

from ftfy import TextFixerConfig, fix_encoding

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
# Controls, byte-order marks, zero-width spaces and joiners, non-characters: all are invisible to a reader.
_UNSEEN = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x9f\ufeff\u200b\u2060\ufffe\uffff]")
_TRAILING = " \t\xa0\u3000"
# First code point of each run, and whether one of the two expressions above matches it.
_RUNS = (
    (0x0, 1), (0x9, 0), (0xB, 1), (0x20, 0), (0x7F, 1), (0xA0, 0), (0x200B, 1), (0x200C, 0), (0x2028, 1), (0x202A, 0),
    (0x2060, 1), (0x2061, 0), (0xFEFF, 1), (0xFF00, 0), (0xFFFE, 1), (0x10000, 0),
)  # fmt: skip
_STARTS, _WRONG = tuple(start for start, _ in _RUNS), tuple(wrong for _, wrong in _RUNS)


def normalize_text(text: str) -> str:
    """Return the text in NFC, with one kind of line break and without invisible characters.

    The NFC of Hugging Face differs from that of Unicode, so this one is applied first.
    """
    # For most texts, two look-ups per character show that nothing is to do, ten times faster than the expressions.
    wrong = table_of(_STARTS, _WRONG)
    if any(wrong.take(code_points(block)).any() for block in blocks(text)):
        text = _UNSEEN.sub("", _BREAKS.sub("\n", text))
    return text if text.isascii() or unicodedata.is_normalized("NFC", text) else unicodedata.normalize("NFC", text)


def normalize_document(text: str, profile: Profile) -> str:
    """Mend a whole document by its profile. Lines may be removed, so older offsets into it are not valid afterwards."""
    repair = _choose_repair(text)
    parts = list(blocks_of_lines(text))
    del text
    if profile.mojibake == "repair":
        parts = _repair_blocks(parts, repair)
    parts = [_normalize_block(part, profile) for part in parts]
    if profile.boilerplate or profile.remove_lines:
        parts = remove_boilerplate(parts, profile.boilerplate, further_lines=profile.remove_lines)
    trims = profile.white_space == "trim"
    parts = limit_breaks(map(_strip_lines, parts) if trims else parts, within=trims)
    return "".join(join_repeats(parts) if profile.joins_repeats else parts)


def _choose_repair(text: str) -> Callable[[str], str]:
    if looks_like_wrong_gbk(text):
        return repair_gbk
    return repair_gbk_as_latin if looks_like_gbk_as_latin(text) else _repair_utf8


def _repair_blocks(parts: list[str], repair: Callable[[str], str]) -> list[str]:
    """Repair each line by itself, because a fault in one line does not imply a fault in another."""
    repaired = [repair(part) for part in parts]
    is_same = all(new is old for new, old in zip(repaired, parts, strict=True))
    return parts if is_same else list(cut_again(repaired))


def _repair_utf8(part: str) -> str:
    if not has_mojibake_signs(part):
        return part
    settings = TextFixerConfig(restore_byte_a0=True, replace_lossy_sequences=True, decode_inconsistent_utf8=True)
    lines = part.split("\n")
    return "\n".join(fix_encoding(line, settings) if find_mojibake(line) else line for line in lines)


def _strip_lines(block: str) -> str:
    return "\n".join([line.rstrip(_TRAILING) for line in block.split("\n")])


def _normalize_block(block: str, profile: Profile) -> str:
    block = normalize_text(block)
    if profile.width != "keep":
        block = narrow_letters(block)
    if profile.width == "all":
        block = fit_marks(block)
    if profile.script != "keep":
        block = convert_script(block, profile.script)
    return mask(block, profile.mask)
