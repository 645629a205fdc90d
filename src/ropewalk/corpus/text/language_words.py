"""Finds the words of a text that show its language: outside code and links, without names and identifiers.

A technical text in Chinese, Japanese or Russian is full of Latin letters: commands, paths, products. None of them shows
the language of the text. A Latin word counts only where it looks like a word in a sentence: letters alone, with white
space or punctuation around them. In a line with letters of another script, only lower-case words count, since the
others are names. In any other line, words count only where the line is a sentence and no command.
"""

import re

from ropewalk.corpus.text.blocks import blocks_of_lines

_LATIN = "A-Za-zª-ÿĀ-ʯḀ-ỿ"
_SMALL = "a-zß-ÿĀ-ʯḀ-ỿ"
# A word may follow an opening mark or a letter of Han, and may end before a closing mark or a letter of Han. A full
# stop counts only at the end of a sentence.
_BEFORE = r"\s(\[“”‘’\"'«»„—–,;:¿¡\u2e80-\uffef"
_AFTER = r"\s)\]“”‘’\"'«»—–,;!?…\u2e80-\uffef"
_BORDER = rf"(?![^{_AFTER}.:])(?![.:](?!\s|$))"
_WORD = re.compile(rf"(?<![^{_BEFORE}])[{_LATIN}][{_SMALL}]+{_BORDER}")
_SMALL_WORD = re.compile(rf"(?<![^{_BEFORE}])[{_SMALL}]{{2,}}{_BORDER}")
_LETTERS = re.compile(rf"[{_LATIN}]+")
_OTHER_SCRIPT = re.compile("[\u0370-\u1cff\u1f00-\u1fff\u2c80-\u2dff\u3005-\ua63f\ua800-\ud7ff\uf900-\ufaff\ufb1d-\ufdff\ufe70-\ufefe\uff66-\uffdc\U00010000-\U0001cfff\U00020000-\U000323af]")  # fmt: skip  # noqa: E501
_FENCE = re.compile(r"[ \t>*+-]*(```+|~~~+)(.*)")
_INLINE = re.compile(r"(`+)[^`]+\1|<[^<>]{0,500}>|\]\([^()\s]*\)|\b[a-z]+://[^\s\u3000-\uffef]+")
_FEWEST_WORDS = 5


def language_words(text: str, *, in_code: bool = False) -> str:
    """Reduce each line of a text to the words that show its language. With ``in_code``, also read fenced code."""
    kept: list[str] = []
    fence = ""
    for block in blocks_of_lines(text):
        for line in block.split("\n"):
            if "```" in line or "~~~" in line:
                mark = _FENCE.match(line)
                if mark and not fence and mark[1][0] not in mark[2]:
                    fence = mark[1]
                    continue
                if mark and fence and mark[1].startswith(fence) and not mark[2].strip():
                    fence = ""
                    continue
            if not fence or in_code:
                kept.append(_line_words(line))
    return "\n".join(filter(None, kept))


def without_latin(text: str) -> str:
    """Replace the Latin letters in a text of another script by spaces."""
    return _LETTERS.sub(" ", text)


def _line_words(line: str) -> str:
    if line.isascii() or not _OTHER_SCRIPT.search(line):
        words = _WORD.findall(line)
        says_something = len(words) >= _FEWEST_WORDS and 2 * sum(map(len, words)) >= len("".join(line.split()))
        return " ".join(words) if says_something else ""
    line = _INLINE.sub(" ", line)
    return f"{without_latin(line)} {' '.join(_SMALL_WORD.findall(line))}"
