"""What a verb does, as JSON lines for programs: one object a line, appended while it happens.

Every object has ``time`` (seconds since 1970), ``event`` and the number of its process. Events: ``started`` and
``ended`` of the verb, ``said`` (a line for people), ``begun``, ``progress`` and ``finished`` of long work, ``result``,
``error``. Ranks that are forked write to the same file; a line is one write, so lines are never mixed. Half a line, of
a machine that lost its power, is ended before the next one begins.
"""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ropewalk.core.error import UserError
from ropewalk.core.strict_json import drop_infinities, spell_json


@dataclass(slots=True)
class _Sink:
    handle: int | None = None


_SINK = _Sink()


def open_events(path: Path | None) -> None:
    """From now on append events to ``path``; None: to nothing. Raises UserError where it cannot be written."""
    if _SINK.handle is not None:
        os.close(_SINK.handle)
        _SINK.handle = None
    if path is None:
        return
    try:
        _SINK.handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        if path.is_file() and _ends_within_a_line(path):
            os.write(_SINK.handle, b"\n")
    except OSError as error:
        raise UserError(
            "the file of events cannot be written",
            where=f"--events {path}",
            why=error.strerror or str(error),
            fix="give a file in a folder that exists, or leave --events out",
        ) from None


def emit(event: str, **facts: Any) -> None:
    """Append an event, if somebody asked for events.

    A value that JSON does not know is written as its text, and a number that is none (nan, inf) as null.
    """
    if _SINK.handle is not None:
        entry = {"time": round(time.time(), 3), "event": event, "process": os.getpid(), **facts}
        line = spell_json(drop_infinities(entry), ensure_ascii=False, default=str) + "\n"
        os.write(_SINK.handle, line.encode("utf-8", errors="backslashreplace"))


def _ends_within_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        return file.read(1) not in (b"", b"\n")
