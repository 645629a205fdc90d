"""Translates what people read where it is printed; all code writes its messages in English.

Each line is read as messages of the catalogue (readings.py). The values in a message stay as they are, unless they are
messages themselves, such as the fault inside of an error. What has no entry stays English, so that nothing is lost.

Names, keys, code and numbers are never translated: a single word only where a label of our own stands (the head of a
column, the beginning of a line of ``check``).
"""

import re
from dataclasses import dataclass
from typing import Any

from ropewalk.core.catalogue import read_catalogue
from ropewalk.core.columns import count_columns, pad_columns
from ropewalk.core.error import UserError
from ropewalk.core.readings import CUTS, read_messages

LANGUAGES = ("en", "zh")
LABEL_COLUMNS = 11
"""The width of the labels that lines of ``check`` begin with."""
_LENGTH = re.compile(r"[<>]?\d+[KMi]*")
_GAPS = re.compile(r"(\s{2,})")
_OF_DOCUMENTS = ("text", "begins", "ends")
"""Keys of results that hold words of documents."""
_POINT = re.compile(r" *- (?=\S)")
"""What a line of a list begins with."""


KEPT = "\u2060"
"""Stands before and after what is not translated. It has no width."""
_KEPT = re.compile(f"{KEPT}([^{KEPT}\\n]*){KEPT}")
_FIRST_STAND_IN = 0xE000
_WIDE_GAP = 3
"""Blanks from which on the text behind them is a column of its own, and stays in its place."""


@dataclass(slots=True)
class _Speech:
    language: str = "en"


_SPEECH = _Speech()


def set_language(language: str) -> None:
    """The language of what this process, and the ranks that it forks, print. Raises UserError for an unknown one."""
    if language not in LANGUAGES:
        raise UserError(
            f"there are no messages in the language {language}",
            where="--lang",
            why="messages are in English (en) and in Chinese (zh)",
            fix="--lang en or --lang zh",
        )
    _SPEECH.language = language


def get_language() -> str:
    """``en`` or ``zh``."""
    return _SPEECH.language


def keep(text: str) -> str:
    """``text`` marked as what is not translated: names that come from outside, and tables that are translated already.

    The marks are removed where the text around it is translated. In English there are none.
    """
    if _SPEECH.language == "en":
        return text
    return "\n".join(f"{KEPT}{line}{KEPT}" if line else line for line in text.split("\n"))


def translate_text(text: str) -> str:
    """A message in the language that was asked for; what is no message is translated line by line."""
    return text if _SPEECH.language == "en" or not text else _translate(text, _SPEECH.language)


def translate_lines(text: str) -> str:
    """The same for lines that are messages each, such as a result for people."""
    return text if _SPEECH.language == "en" else "\n".join(map(translate_text, text.split("\n")))


def translate_label(text: str) -> str:
    """The same for a label of our own, such as the head of a column or a verdict, which may be a single word."""
    if _SPEECH.language == "en" or not text:
        return text
    words, parts = read_catalogue(_SPEECH.language).whole, CUTS.split(text)
    if text in words or not any(part in words for part in parts):
        return words.get(text) or translate_text(text)
    return "".join(words.get(part) or translate_text(part) for part in parts)


def translate_all(value: Any) -> Any:
    """JSON-like data with every message in it translated; keys, single words and words of documents stay."""
    if _SPEECH.language == "en":
        return value
    if isinstance(value, str):
        return translate_text(value)
    if isinstance(value, dict):
        return {key: each if key in _OF_DOCUMENTS else translate_all(each) for key, each in value.items()}
    return [translate_all(each) for each in value] if isinstance(value, list | tuple) else value


def translate_error(error: UserError) -> UserError:
    """The same error with its four parts translated."""
    return UserError(
        translate_text(error.what),
        where=translate_text(error.where),
        why=translate_text(error.why),
        fix=translate_text(error.fix),
    )


def spell_error(error: UserError) -> str:
    """An error, whose parts are translated already, as it is printed."""
    if _SPEECH.language == "en":
        return str(error)
    entries = read_catalogue(_SPEECH.language).entries
    heads = {"where: {0}": error.where, "why:   {0}": error.why, "fix:   {0}": error.fix}
    return "\n  ".join([error.what, *(entries[head].format(part) for head, part in heads.items())])


def _translate(text: str, language: str) -> str:
    """Each line, without the marks of what is kept."""
    kept = _KEPT.findall(text)
    stand_ins = map(chr, range(_FIRST_STAND_IN, _FIRST_STAND_IN + len(kept)))
    text = _KEPT.sub(lambda _: next(stand_ins), text)
    told = "\n".join(_translate_line(line, language) for line in text.split("\n"))
    for number, each in enumerate(kept):
        told = told.replace(chr(_FIRST_STAND_IN + number), each, 1)
    return told.replace(KEPT, "")


def _translate_line(text: str, language: str) -> str:
    """A line: a point of a list, the head of a table, a label of ``check`` and its text, or messages."""
    if text.lstrip().startswith("| "):
        return text  # words of a document, which are shown beside such a bar
    words = read_catalogue(language).whole
    if (point := _POINT.match(text)) is not None:
        first, *others = _GAPS.split(text[point.end() :])
        if others and first in words:
            return _align(text, "".join([point.group(), words[first], *others]))
        return _align(text, point.group() + _translate_line(text[point.end() :], language))
    if head := _translate_head(text, language):
        return head  # its first label may end where that of a line of ``check`` does
    label, rest = text[:LABEL_COLUMNS].rstrip(), text[LABEL_COLUMNS + 1 :]
    if rest and text[LABEL_COLUMNS - 1 : LABEL_COLUMNS + 1] == "  " and (word := words.get(label)):
        return f"{pad_columns(word, LABEL_COLUMNS)} {_translate_line(rest, language)}"
    return _align(text, read_messages(text, language).told)


def _align(text: str, told: str) -> str:
    """``told`` with its columns in the places that they have in ``text``."""
    given, made = _GAPS.split(text), _GAPS.split(told)
    if given[1::2] != made[1::2]:
        return told
    end, line = 0, made[0]
    for place, gap in enumerate(given[1::2]):
        end += count_columns(given[2 * place]) + len(gap)
        room = len(gap) if len(gap) < _WIDE_GAP or not line.strip() else max(2, end - count_columns(line))
        line += " " * room + made[2 * place + 2]
    return line


def _translate_head(text: str, language: str) -> str:
    """The head of a table of text: a line of labels, the first at the left and the others at the right; else empty.

    A label with a digit is a length, such as ``>8Ki``, and stays."""
    words, (first, *others) = read_catalogue(language).whole, _GAPS.split(text)
    labels = [first.strip(), *others[1::2]]
    told = {label: words.get(label) or (label if _LENGTH.fullmatch(label) else "") for label in labels}
    if len(labels) < 3 or labels[0] not in words or not all(told.values()):
        return ""
    head, end = told[first.strip()], len(first)
    for gap, label in zip(others[::2], others[1::2], strict=True):
        end += len(gap) + len(label)
        head += " " * max(1, end - count_columns(head + told[label])) + told[label]
    return head
