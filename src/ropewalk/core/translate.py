"""Translates what people read where it is printed; all code writes its messages in English.

A text is looked up in the catalogue (catalogue.py). The values in a message stay as they are, unless they are messages
themselves, such as the fault inside of an error. A text that is no single message is cut into lines, and these at their
punctuation. What has no entry stays English, so that nothing is lost.

Names, keys, code and numbers are never translated: a single word only where a label of our own stands (the head of a
column, the beginning of a line of ``check``).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ropewalk.core.catalogue import Template, cut_template, read_catalogue
from ropewalk.core.columns import count_columns
from ropewalk.core.error import UserError

LANGUAGES = ("en", "zh")
LABEL_COLUMNS = 11
"""The width of the labels that lines of ``check`` begin with."""
_CUTS = re.compile(r"(; |: |\. |, | \(|\)|\s{2,})")
_GAPS = re.compile(r"(\s{2,})")
_EDGES = " .;:,\n\t"
_ENGLISH = re.compile(r"[a-z]+(?: [a-z]+)+")
_HAN = re.compile("[\u3400-\u9fff]")
_APART = re.compile("[\u3400-\u9fff][A-Za-z0-9]|[A-Za-z0-9][\u3400-\u9fff]")
_MARKS = {"; ": "；", ": ": "：", ". ": "。", ", ": "，", ".": "。", ":": "：", ";": "；"}
_NAME = r"""[\w.\[\]'"=-]+"""
_NAMES = re.compile(rf"(?=.*[._'=-])(?=.*\b(and|or) )((and|or) )?{_NAME}( (and|or) {_NAME})*")
"""Keys, options and words in quotes, joined to a list: ``parallel.ranks and --nodes``."""
_OF_DOCUMENTS = ("text", "begins", "ends")
"""Keys of results that hold words of documents."""
_CONJUNCTION = re.compile(r"(?<!\S)(and|or)(?= )")
_POINT = re.compile(r" *- (?=\S)")
"""What a line of a list begins with."""
_HINT = "; did you mean "
"""What may follow any message; a value at its end would take it."""
_MOST_PARTS = 12
"""Parts of a line that are taken together to find one message."""


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
    words, parts = read_catalogue(_SPEECH.language).whole, _CUTS.split(text)
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


@lru_cache(maxsize=4096)
def _translate(text: str, language: str) -> str:
    """A message, else each of its lines, else the parts of the line."""
    if text.lstrip().startswith("| "):
        return text  # words of a document, which are shown beside such a bar
    if (point := _POINT.match(text)) is not None:
        return point.group() + _translate(text[point.end() :], language)
    before, hint, after = text.rpartition(_HINT)
    if before:
        return f"{_translate(before, language)}；{_translate(hint.removeprefix('; ') + after, language)}"
    if head := _translate_head(text, language):
        return head  # its first label may end where that of a line of ``check`` does
    label, rest = text[:LABEL_COLUMNS].rstrip(), text[LABEL_COLUMNS + 1 :]
    if rest and text[LABEL_COLUMNS] == " " and (word := read_catalogue(language).whole.get(label)):
        return f"{word}{' ' * (LABEL_COLUMNS - count_columns(word))} {_translate(rest, language)}"
    told = _look_up(text, language)
    if told is not None and not (_ENGLISH.search(told) and _CUTS.search(text)):
        return told
    if told is None and "\n" in text:
        return "\n".join(_translate(line, language) for line in text.split("\n"))
    parts = "".join(_translate_parts(_CUTS.split(text), language))
    # Several messages in one line may look like the first one, with the others in its hole.
    return parts if told is None or _count_english(parts) < _count_english(told) else told


def _count_english(text: str) -> int:
    return sum(len(found.group()) for found in _ENGLISH.finditer(text))


def _translate_head(text: str, language: str) -> str:
    """The head of a table of text: a line of labels, the first at the left and the others at the right; else empty."""
    words, (first, *others) = read_catalogue(language).whole, _GAPS.split(text)
    labels = [first.strip(), *others[1::2]]
    if len(labels) < 3 or not all(label in words for label in labels):
        return ""
    head, end = words[first.strip()], len(first)
    for gap, label in zip(others[::2], others[1::2], strict=True):
        end += len(gap) + len(label)
        head += " " * max(1, end - count_columns(head + words[label])) + words[label]
    return head


def _look_up(text: str, language: str) -> str | None:
    """The translation of a text that is one message, with the punctuation around it; None if it is none."""
    found = _find(text, language)
    if found is None:
        return None
    template, values = found
    before, _, after = text.partition(text.strip(_EDGES))
    told = _fill(template.told, [_translate(value, language) for value in values])
    return f"{_MARKS.get(before, before)}{told}{_MARKS.get(after, after) if _HAN.match(told[-1:]) else after}"


def _fill(told: str, values: list[str]) -> str:
    """A translation with its values: a blank between a Chinese letter and an English word, and none between Chinese."""
    literals, holes = cut_template(told)
    filled = literals[0]
    for name, literal in zip(holes, literals[1:], strict=True):
        value = values[int(name)]
        if _HAN.match(value) and filled.endswith(" ") and _HAN.match(filled[-2:-1]):
            filled = filled[:-1]  # it is there for an English word
        for part in (value, literal):
            filled += f" {part}" if _APART.fullmatch(filled[-1:] + part[:1]) else part
    return filled


def _find(text: str, language: str) -> tuple[Template, list[str]] | None:
    """The message that a text is, apart from the punctuation around it, and its values."""
    core = text.strip(_EDGES)
    if " " not in core:
        return None
    found = read_catalogue(language).find(core)
    if found is not None and "\n" in core and not found[0].literals[0]:
        return None  # lines of their own, of which one has these words
    return found


def _translate_parts(parts: list[str], language: str) -> Iterator[str]:
    """The parts of a line: texts, and the marks between them. Neighbours that are one message are taken together."""
    if len(parts) == 1:
        yield _join_names(parts[0])
        return
    at = 0
    while at < len(parts):
        ends, found = range(at + 1, min(len(parts), at + 2 * _MOST_PARTS) + 1, 2), list[tuple[int, int]]()
        for end in ends:
            if end - at < len(parts) and (match := _find("".join(parts[at:end]), language)) is not None:
                found.append((match[0].letters, end))
        end = max(found)[1] if found else at + 1
        told = _look_up("".join(parts[at:end]), language) if found else None
        yield _join_names(parts[at]) if told is None else told
        at = end
        if at < len(parts):
            yield _MARKS.get(parts[at], parts[at]) if told is not None else parts[at]
            at += 1


def _join_names(text: str) -> str:
    """A list of names with Chinese words between them; any other text as it is."""
    if not _NAMES.fullmatch(text):
        return text
    return _CONJUNCTION.sub(lambda found: "和" if found.group() == "and" else "或", text)
