"""Reads back JSON and JSON lines that the program wrote; an error names the file and the line of the damage.

A kill may leave an incomplete last line, which is skipped in files that are appended to. Any other damage is an error:
a figure that is left out silently looks like a figure that was never measured.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from pydantic_core import from_json

from ropewalk.core.error import UserError

Value = TypeVar("Value")
_AGAIN = "remove it and run again the part that writes it"
_FAULTS = (ValueError, KeyError, TypeError, AttributeError)
"""Errors that parsing raises if the content is not as it was written; JSON's and UTF-8's errors are ValueErrors."""


def _same(content: Any) -> Any:
    return content


def parse_written(content: bytes) -> Any:
    """The value of JSON in UTF-8, as ``json.loads`` has it, in a third of its time.

    What the fast parser refuses (halves of surrogate pairs, values nested deeper than 200, and all faults) is left to
    Python's: values, and errors with their positions, are its own.
    """
    try:
        return from_json(content)
    except ValueError:
        return json.loads(content.decode())


def read_written(path: Path, parse: Callable[[Any], Value] = _same, *, fix: str = _AGAIN) -> Value:
    """Read a JSON file and return ``parse`` of its content.

    Raises UserError, with the line, where the content is not as it was written. ``fix`` is the advice in that error.
    """
    try:
        return parse(json.loads(path.read_text(encoding="utf-8")))
    except json.JSONDecodeError as error:
        raise _damaged(f"{path}, line {error.lineno}", error.msg, fix) from None
    except _FAULTS as error:
        raise _damaged(str(path), _tell(error), fix) from None


def read_written_lines(
    path: Path,
    parse: Callable[[Any], Value] = _same,
    *,
    fix: str = _AGAIN,
    appended: bool = True,
    wanted: Callable[[bytes], bool] | None = None,
) -> Iterator[Value]:
    """Read a JSON lines file and yield ``parse`` of each line.

    A file that is ``appended`` to may end in an incomplete line, which is skipped. A line for which ``wanted`` is False
    is left out, and not parsed. Raises UserError, with the line, where any other line is not as it was written.
    """
    # as bytes: an invalid byte is then reported with its line, not at the end of a buffer
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if appended and not line.endswith(b"\n"):
                return
            if wanted is not None and not wanted(line):
                continue
            yield _parse_line(line, parse, f"{path}, line {number}", fix)


def read_written_line(path: Path, offset: int, parse: Callable[[Any], Value] = _same) -> Value:
    """The ``parse`` of the line of a JSON lines file that begins at byte ``offset``. Raises UserError as above."""
    with path.open("rb") as file:
        file.seek(offset)
        return _parse_line(file.readline(), parse, f"{path}, byte {offset}", _AGAIN)


def _parse_line(line: bytes, parse: Callable[[Any], Value], where: str, fix: str) -> Value:
    try:
        return parse(parse_written(line))
    except _FAULTS as error:
        raise _damaged(where, _tell(error), fix) from None


def _tell(error: Exception) -> str:
    return f"it lacks {error}" if isinstance(error, KeyError) else str(error)


def _damaged(where: str, why: str, fix: str) -> UserError:
    return UserError("a file that the program wrote cannot be read", where=where, why=why, fix=fix)
