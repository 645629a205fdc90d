"""What the program wrote and reads back, JSON and JSON lines: what is damaged is told by file and line.

A kill may leave a last line without its end, which is passed over where lines are appended; anything else that does not
read is an error, because a figure that is left out in silence looks like one that was never taken.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from ropewalk.core.error import UserError

Value = TypeVar("Value")
_AGAIN = "remove it and run the part again that writes it"
_FAULTS = (ValueError, KeyError, TypeError, AttributeError)
"""What parsing raises where the content is not what was written: JSON's and UTF-8's errors are ValueErrors."""


def _same(content: Any) -> Any:
    return content


def read_written(path: Path, parse: Callable[[Any], Value] = _same, *, fix: str = _AGAIN) -> Value:
    """``parse`` of a JSON file's content. Raises UserError, naming the line, where it is not what was written."""
    try:
        return parse(json.loads(path.read_text(encoding="utf-8")))
    except json.JSONDecodeError as error:
        raise _damaged(f"{path}, line {error.lineno}", error.msg, fix) from None
    except _FAULTS as error:
        raise _damaged(str(path), _tell(error), fix) from None


def read_written_lines(path: Path, parse: Callable[[Any], Value] = _same, *, fix: str = _AGAIN) -> Iterator[Value]:
    """``parse`` of each line of a JSON lines file; a last line without its end is passed over.

    Raises UserError, naming the line, for any other that is not what was written.
    """
    with path.open("rb") as file:  # as bytes: a wrong one is then told with its line, not with a buffer's end
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                value = parse(json.loads(line.decode()))
            except _FAULTS as error:
                raise _damaged(f"{path}, line {number}", _tell(error), fix) from None
            yield value


def _tell(error: Exception) -> str:
    return f"it lacks {error}" if isinstance(error, KeyError) else str(error)


def _damaged(where: str, why: str, fix: str) -> UserError:
    return UserError("a file that the program wrote cannot be read", where=where, why=why, fix=fix)
