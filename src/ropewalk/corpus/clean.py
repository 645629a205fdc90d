"""What counts as clean text, per kind of text: one profile each for English, Chinese, code, law and instructions.

Stock web filters keep no code and no Chinese, and drop books for being long. Here nothing is too long, shares are taken
over windows of 64Ki characters (a book repeats itself more than a page does), and every drop has a reason that is
counted.
"""

import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from types import MappingProxyType

import numpy as np

from ropewalk.core.record import Document
from ropewalk.corpus.language import script_counts
from ropewalk.corpus.read import Reject
from ropewalk.corpus.shingle import character_runs
from ropewalk.corpus.spec import ProfileName

CLEANING = 1
"""Rises when the same profile would give other text."""
_WINDOW_CHARACTERS = 1 << 16
_WINDOWS = 16
_LINE_CHARACTERS = 12
_PASSAGE_CHARACTERS = 32
_BREAKS = re.compile(r"\r\n?|[\x0b\x0c\x85\u2028\u2029]")
# Controls, byte-order marks, zero-width spaces and joiners, non-characters: nothing that a reader sees.
_UNSEEN = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x9f\ufeff\u200b\u2060\ufffe\uffff]")
_TRAILING = re.compile(r"[ \t\xa0\u3000]+$", re.MULTILINE)
_BLANK_LINES = re.compile(r"\n{4,}")


@dataclass(frozen=True, slots=True)
class Profile:
    """Thresholds of one kind of text. Shares are of characters."""

    min_characters: int
    min_letters: float
    """Letters among what is not white space; C4 and Gopher ask for words, which code and Chinese have not."""
    max_repeated_lines: float
    """In lines that stood before in the window; Gopher drops at 0.2 to 0.3 of a web page."""
    max_repeated_passages: float
    """In runs of 32 characters that stood before in the window."""
    min_han: float = 0.0
    """Han among the letters."""
    max_line_characters: int | None = None
    """Mean length of a line: minified code and data blobs have few breaks."""
    max_replaced: float = 0.001
    """U+FFFD: text that was decoded wrongly once."""
    joins_repeats: bool = False
    """Whether four equal lines in a row become one."""


PROFILES: Mapping[ProfileName, Profile] = MappingProxyType(
    {
        "prose_en": Profile(100, 0.6, 0.3, 0.4, joins_repeats=True),
        # A poem of four lines is a document.
        "prose_zh": Profile(20, 0.5, 0.3, 0.4, min_han=0.5, joins_repeats=True),
        # A quarter of letters as for the Stack; licence heads and boilerplate repeat between a package's files.
        "code": Profile(50, 0.25, 0.6, 0.8, max_line_characters=200),
        # Tables, numbered lists and set phrases are what law is made of.
        "law": Profile(50, 0.4, 0.5, 0.7, joins_repeats=True),
        # Retrieval prompts repeat on purpose; the answer may be one word.
        "instruction": Profile(10, 0.2, 1.0, 1.0),
    }
)


def clean_document(document: Document, profile: Profile) -> Document | Reject:
    """The document with its text mended, or why it is dropped. Loss spans move with the text."""
    if document.loss_spans is None:
        cleaned = replace(document, text=_tidy(document.text, profile))
    else:
        cleaned = _mend_spans(document)
    reason = find_fault(cleaned.text, profile)
    size = len(document.text.encode())
    return cleaned if reason is None else Reject(document.id, reason, size)


def find_fault(text: str, profile: Profile) -> str | None:
    """Why a text that is mended already does not fit its profile, or None."""
    if len(text) < profile.min_characters:
        return "too short"
    if text.count("\ufffd") > profile.max_replaced * len(text):
        return "broken characters"
    letters, han, seen = script_counts(text)
    if letters < profile.min_letters * seen:
        return "few letters"
    if han < profile.min_han * letters:
        return "little Han"
    if profile.max_line_characters and len(text) > profile.max_line_characters * (text.count("\n") + 1):
        return "long lines"
    windows = list(_windows(text))
    if profile.max_repeated_lines < 1 and np.mean([*map(_repeated_lines, windows)]) > profile.max_repeated_lines:
        return "repeated lines"
    if (
        profile.max_repeated_passages < 1
        and np.mean([*map(_repeated_passages, windows)]) > profile.max_repeated_passages
    ):
        return "repeated passages"
    return None


def mend(text: str) -> str:
    """NFC, line breaks as one, nothing unseen. Hugging Face's own NFC differs from Unicode's; this one comes first."""
    return unicodedata.normalize("NFC", _UNSEEN.sub("", _BREAKS.sub("\n", text)))


def _tidy(text: str, profile: Profile) -> str:
    text = _BLANK_LINES.sub("\n\n\n", _TRAILING.sub("", mend(text))).strip("\n")
    if profile.joins_repeats:
        text = "\n".join(line for line, copies in _runs(text) for _ in range(copies))
    return text


def _runs(text: str) -> Iterator[tuple[str, int]]:
    for line, equal in groupby(text.split("\n")):
        copies = sum(1 for _ in equal)
        yield line, 1 if copies >= 4 else copies


def _mend_spans(document: Document) -> Document:
    assert document.loss_spans is not None
    borders = [0, *(border for span in document.loss_spans for border in span), len(document.text)]
    pieces = [mend(document.text[start:end]) for start, end in pairwise(borders)]
    ends = np.cumsum([len(piece) for piece in pieces]).tolist()
    return replace(document, text="".join(pieces), loss_spans=tuple(zip(ends[0::2], ends[1::2], strict=False)))


def _windows(text: str) -> Iterator[str]:
    """All of a short text; of a long one 16 windows, evenly spread."""
    starts = range(0, len(text), _WINDOW_CHARACTERS)
    for start in starts[:: -(-len(starts) // _WINDOWS)]:
        yield text[start : start + _WINDOW_CHARACTERS]


def _repeated_lines(window: str) -> float:
    seen: set[str] = set()
    repeated = 0
    for line in window.split("\n"):
        line = line.strip()
        if len(line) >= _LINE_CHARACTERS:  # short ones repeat in any dialogue, poem or program
            repeated += len(line) if line in seen else 0
            seen.add(line)
    return repeated / len(window) if window else 0.0


def _repeated_passages(window: str) -> float:
    """Share of 32-character runs that occurred before. White space does not count as a difference."""
    runs = character_runs(" ".join(window.split()), _PASSAGE_CHARACTERS)
    return 1 - len(np.unique(runs)) / len(runs) if len(runs) else 0.0
