"""Measures of a text. They are computed for every document first, and compared with its profile's thresholds later.

Shares of repetition are means over windows of 64Ki characters, at most 16 windows, evenly spread. A book repeats itself
more than a page does; with windows it is judged like a page.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from ftfy.badness import badness

from ropewalk.corpus.clean.long_document_quality import find_length_facts
from ropewalk.corpus.text.blocks import CELL_BORDER, is_few_letters
from ropewalk.corpus.text.chinese import looks_like_gbk_as_latin, looks_like_wrong_gbk, traditional_share
from ropewalk.corpus.text.language import script_counts
from ropewalk.corpus.text.profile import Profile
from ropewalk.corpus.text.shingle import character_runs

_WINDOW_CHARACTERS = 1 << 16
_WINDOWS = 16
_LINE_CHARACTERS = 12
_FEWEST_LINES = 10
"""In a shorter text, such as a poem or a caption, it is allowed that no line ends a sentence."""
_PASSAGE_CHARACTERS = 32
_FEW_CHARACTERS = 256
"""In such a text the runs themselves are compared faster than their hashes are made."""
_FEW_REPEATS, _MOSTLY = 0.1, 0.75
_WRONG_GBK = 0.02
"""Share of mojibake that is assumed for a text wrongly read as GBK, or for GBK read as another encoding."""
SENTENCE_ENDS = frozenset(".!?;:\"')]}。！？；：”’」』…）】》.․«»‹›“‘،؛؟۔।॥།༎។៕៖၊။።፧፨։՞՜᠂᠃᠈᠉")
SENTENCE_ENDS |= set(map(chr, range(0xE00, 0xF00)))  # Thai and Lao end a sentence with a space
# Bytes of UTF-8 that were read as Latin-1 or Windows-1252: the first byte of a character, and the bytes that follow it.
# Correct text has such runs too, where an accent stands beside a quote. So ftfy makes the decision.
_GOES_ON = "[\u0080-\u00bf€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ]"
_MOJIBAKE_BEGINS = b"\xc3"
"""In UTF-8, only the characters from À to ÿ have this byte."""
_MOJIBAKE = re.compile(f"[Â-ß]{_GOES_ON}|[à-ï]{_GOES_ON}{{2}}")


@dataclass(frozen=True, slots=True)
class Measures:
    """The measures of a normalized text. Shares are between 0 and 1."""

    characters: int
    letters: float
    han: float
    """Share of Han in the letters that show the language: those outside code, links and names. One letter of Han counts
    as three Latin letters."""
    line_characters: float
    replaced: float
    mojibake: float
    ended_lines: float
    repeated_lines: float
    repeated_passages: float
    traditional: float | None
    """None where no character shows the script."""
    coherence: float | None
    vocabulary_growth: float | None
    """Both are defined in long_document_quality.py. They are None for a text of one window."""

    def to_whole_json(self) -> dict[str, float | None]:
        """The measures as JSON values, not rounded."""
        return {name: getattr(self, name) for name in self.__slots__}

    def to_json(self) -> dict[str, float | None]:
        """The measures as JSON values. They are rounded, because a threshold has two digits."""
        values = self.to_whole_json()
        return {name: round(value, 4) if isinstance(value, float) else value for name, value in values.items()}


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a text does not fit its profile: a reason for the ledger, and the measure with its threshold."""

    reason: str
    why: str


def measure_text(text: str) -> Measures:
    """All measures of a text that is already normalized."""
    letters, han, seen = script_counts(text)
    lines, ended, repeated, passages, characters = 0, 0, 0.0, 0.0, 0
    windows = list(_windows(text))
    for window in windows:
        in_window = [line for line in map(str.strip, window.split("\n")) if len(line) >= _LINE_CHARACTERS]
        said = _without_rows(in_window) if "|" in window or "\t" in window else in_window
        lines += len(said)
        ended += sum(line[-1] in SENTENCE_ENDS for line in said)
        repeated += _repeated_lines(in_window) / max(1, len(window))
        passages += _repeated_passages(window)
        characters += len(window)
    first = windows[0] if windows else ""
    facts = find_length_facts(text)
    return Measures(
        characters=len(text),
        letters=letters / max(1, seen),
        han=han,
        line_characters=len(text) / (text.count("\n") + 1),
        replaced=text.count("\ufffd") / max(1, len(text)),
        mojibake=_mojibake(first),
        ended_lines=ended / lines if lines >= _FEWEST_LINES else 1.0,
        repeated_lines=repeated / max(1, len(windows)),
        repeated_passages=passages / max(1, len(windows)),
        traditional=traditional_share(first) if han else None,
        coherence=facts.coherence if facts else None,
        vocabulary_growth=facts.vocabulary_growth if facts else None,
    )


def find_text_fault(measures: Measures, profile: Profile) -> Fault | None:
    """The first threshold of ``profile`` that a text misses, or None."""
    m, p = measures, profile
    longest = p.max_line_characters
    checks = (
        ("too short", m.characters < p.min_characters, f"{m.characters} characters, fewer than {p.min_characters}"),
        ("broken characters", m.replaced > p.max_replaced, f"{m.replaced:.2%} U+FFFD, above {p.max_replaced:.2%}"),
        (
            "mojibake",
            m.mojibake > p.max_mojibake,
            f"{m.mojibake:.2%} wrongly decoded (mojibake), above {p.max_mojibake:.2%}",
        ),
        ("few letters", m.letters < p.min_letters, f"{m.letters:.1%} letters, below {p.min_letters:.0%}"),
        ("little Han", m.han < p.min_han, f"{m.han:.1%} of letters in Han, below {p.min_han:.0%}"),
        (
            "long lines",
            longest is not None and m.line_characters > longest,
            f"{m.line_characters:.0f} characters a line, above {longest}",
        ),
        (
            "few sentences",
            m.ended_lines < p.min_ended_lines,
            f"{m.ended_lines:.1%} of lines end a sentence, below {p.min_ended_lines:.0%}",
        ),
        (
            "repeated lines",
            m.repeated_lines > p.max_repeated_lines,
            f"{m.repeated_lines:.1%} in lines seen before, above {p.max_repeated_lines:.0%}",
        ),
        (
            "repeated passages",
            m.repeated_passages > p.max_repeated_passages,
            f"{m.repeated_passages:.1%} in passages seen before, above {p.max_repeated_passages:.0%}",
        ),
    )
    return next((Fault(reason, why) for reason, missed, why in checks if missed), None)


def has_mojibake_signs(text: str) -> bool:
    """Whether the lines of a text need a search for mojibake. This check is quick: bytes are found five times as
    fast."""
    if text.isascii() or _MOJIBAKE_BEGINS not in text.encode("utf-8", "surrogatepass"):
        return False
    return _MOJIBAKE.search(text) is not None


def find_mojibake(line: str) -> int:
    """Number of signs of wrong decoding in a line. It is 0 where ftfy finds the line correct, as with accents beside
    typographic quotes."""
    signs = len(_MOJIBAKE.findall(line))
    if not signs:
        return 0
    bad = badness(line)
    return max(signs, bad) if bad else 0


def _mojibake(text: str) -> float:
    """Signs of wrong decoding per character. A person may have to search the text for some of them."""
    if text.isascii():
        return 0.0
    broken = sum(map(find_mojibake, text.split("\n"))) if has_mojibake_signs(text) else 0
    wrong_gbk = looks_like_wrong_gbk(text) or looks_like_gbk_as_latin(text)
    return max(broken / len(text), _WRONG_GBK * wrong_gbk)


def _windows(text: str) -> Iterator[str]:
    """Yield the windows of a text: all of a short text, at most 16 evenly spread windows of a long one."""
    starts = range(0, len(text), _WINDOW_CHARACTERS)
    for start in starts[:: max(1, -(-len(starts) // _WINDOWS))]:
        yield text[start : start + _WINDOW_CHARACTERS]


def _repeated_lines(lines: list[str]) -> int:
    """Characters in lines that occurred before. Shorter lines do not count: they repeat in any dialogue, poem or
    program."""
    if len({*lines}) == len(lines):
        return 0  # as in most windows
    seen: set[str] = set()
    repeated = 0
    for line in lines:
        repeated += len(line) if line in seen and not is_few_letters(line) else 0
        seen.add(line)
    return repeated


def _without_rows(lines: list[str]) -> list[str]:
    """The lines that are no row of a table; all lines where there is hardly any other text."""
    said = [line for line in lines if not _is_row(line)]
    return said if sum(map(len, said)) > (1 - _MOSTLY) * sum(map(len, lines)) else lines


def _is_row(line: str) -> bool:
    return line[:1] == "|" or line.count("\t") > 1


def _repeated_passages(window: str) -> float:
    """Share of 32-character runs that occurred before. Differences in white space are ignored.

    Where the share is high, cells and refrains of a few letters are removed before a second count, unless the text
    consists of them.
    """
    whole = " ".join(window.split())
    repeated, runs = _count_repeats(whole), max(1, len(whole) - _PASSAGE_CHARACTERS + 1)
    if repeated > _FEW_REPEATS * runs:
        said = " ".join(_without_cells(window).split())
        if len(said) > (1 - _MOSTLY) * len(whole):
            repeated = _count_repeats(said)
    return repeated / runs


def _count_repeats(text: str) -> int:
    if len(text) <= _FEW_CHARACTERS:
        starts = range(len(text) - _PASSAGE_CHARACTERS + 1)
        return len(starts) - len({text[start : start + _PASSAGE_CHARACTERS] for start in starts})
    runs = character_runs(text, _PASSAGE_CHARACTERS)
    runs.sort()
    return int(np.count_nonzero(runs[1:] == runs[:-1]))


def _without_cells(window: str) -> str:
    """The text without the short cells of its tables, and without short lines that occurred before."""
    kept: list[str] = []
    seen: set[str] = set()
    has_rows = "|" in window or "\t" in window
    for line in map(str.strip, window.split("\n")):
        if has_rows and _is_row(line):
            kept += [cell for cell in CELL_BORDER.split(line) if not is_few_letters(cell)]
        elif line not in seen or not is_few_letters(line):
            kept.append(line)
        seen.add(line)
    return "\n".join(kept)
