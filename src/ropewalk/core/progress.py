"""Shows the progress of long work: a bar on a terminal, and in a log a plain line a minute, the first one soon.

With ``--quiet`` nothing is shown but warnings and errors; events (events.py) are written in any case.
"""

import hashlib
import mmap
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from ropewalk.core.events import emit
from ropewalk.core.quantity import format_seconds
from ropewalk.core.translate import get_language, keep, translate_label, translate_lines, translate_text

_FIRST_SECONDS, _LINE_SECONDS = 5.0, 60.0
"""Until the first line of a log on a long work, and between two lines."""
_EVENT_SECONDS = 5.0
"""Between two events of progress."""


@dataclass(slots=True)
class _Voice:
    quiet: bool = False
    first: bool = True


_VOICE = _Voice()


def set_quiet(quiet: bool) -> None:
    """Whether this process, and the ranks that it forks, show nothing but warnings and errors."""
    _VOICE.quiet = quiet


def is_quiet() -> bool:
    """Whether ``set_quiet`` asked for warnings and errors alone."""
    return _VOICE.quiet


def set_first(first: bool) -> None:
    """Whether this process is the first of those that do the same work, and tells what all of them find."""
    _VOICE.first = first


@runtime_checkable
class Advance(Protocol):
    """Report the amount just done, optionally with a note to show and the remaining time in seconds.

    Without a remaining time, it is estimated from the work done so far.
    """

    def __call__(self, amount: float = 1, *, note: str = "", left_seconds: float | None = None) -> None: ...


def say(line: str) -> None:
    """Print one line to standard error, where progress belongs; results go to standard output."""
    line = translate_lines(line)
    emit("said", text=line)
    if not _VOICE.quiet:
        print(line, file=sys.stderr, flush=True)


class _Told:
    """Lines that were told once, for this process and all that it forks later: their digests, in shared memory.

    When it is full, a line is told again. Two processes that ask at the same moment may both tell a line.
    """

    _BYTES = 8

    def __init__(self) -> None:
        self._kept = mmap.mmap(-1, mmap.PAGESIZE)

    def add(self, line: str) -> bool:
        """Keep ``line``; whether it was not there yet."""
        digest = hashlib.blake2b(line.encode(), digest_size=self._BYTES).digest()
        for place in range(0, len(self._kept), self._BYTES):
            held = self._kept[place : place + self._BYTES]
            if held == digest:
                return False
            if not any(held):
                self._kept[place : place + self._BYTES] = digest
                break
        return True

    def clear(self) -> None:
        """Forget all lines."""
        self._kept[:] = bytes(len(self._kept))


_told = _Told()


def is_untold(line: str) -> bool:
    """Whether ``line`` is asked for so for the first time in this run: many parts may find the same, one tells it.

    Never on a process that does not speak first.
    """
    return _VOICE.first and _told.add(line)


def say_once(line: str) -> None:
    """As ``say``, but once in a run: nothing on ranks other than the first, nor if it was told already."""
    if is_untold(line):
        say(line)


def warn(line: str) -> None:
    """Print one line to standard error that ``--quiet`` does not keep back."""
    line = translate_lines(line)
    emit("said", text=line, warning=True)
    print(line, file=sys.stderr, flush=True)


@contextmanager
def watch(name: str, total: float, *, unit: str, before: int = 0) -> Iterator[Advance]:
    """Show the progress of ``total`` units of work under ``name`` for the length of the block.

    ``before`` units were done earlier. If more than ``total`` is done, no remaining time is shown.
    """
    show = _show_none if _VOICE.quiet else _draw_bar if sys.stderr.isatty() else _print_lines
    begun, done, due = time.monotonic(), float(before), time.monotonic()
    emit("begun", name=name, total=total, unit=unit, done=before)
    with show(name, total, unit, before) as shown:

        def advance(amount: float = 1, *, note: str = "", left_seconds: float | None = None) -> None:
            nonlocal done, due
            done += amount
            if time.monotonic() >= due:
                due = time.monotonic() + _EVENT_SECONDS
                facts = {"name": name, "done": done, "total": total, "unit": unit, "left_seconds": left_seconds}
                emit("progress", **facts, note=translate_text(note))
            shown(amount, note=note, left_seconds=left_seconds)

        yield advance
    emit("finished", name=name, done=done, unit=unit, seconds=round(time.monotonic() - begun, 3))


@contextmanager
def _show_none(name: str, total: float, unit: str, before: int) -> Iterator[Advance]:
    yield show_nothing


@contextmanager
def _draw_bar(name: str, total: float, unit: str, before: int) -> Iterator[Advance]:
    # Importing rich takes 30 ms, so it is imported only for a terminal, not for logs or --help.
    from rich.console import Console, RenderableType
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Left(TimeRemainingColumn):
        def render(self, task: Task) -> Text:
            seconds = task.fields["left_seconds"]
            return super().render(task) if seconds is None else Text(translate_text(f"{format_seconds(seconds)} left"))

    class Noted(Progress):
        """A bar on one line, and the note on the lines below it."""

        def get_renderables(self) -> Iterator[RenderableType]:
            yield self.make_tasks_table(self.tasks)
            yield from (Text(translate_text(task.fields["note"])) for task in self.tasks if task.fields["note"])

    unit = translate_label(unit)
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit), Left()]
    with Noted(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(translate_text(name), total=total, completed=before, note="", left_seconds=None)

        def advance(amount: float = 1, *, note: str = "", left_seconds: float | None = None) -> None:
            progress.update(task, advance=amount, note=note, left_seconds=left_seconds)
            shown = progress.tasks[task]
            if shown.total is not None and shown.completed > shown.total:
                shown.total = None  # an archive can hold more than its size, so the rest cannot be computed

        yield advance


@contextmanager
def _print_lines(name: str, total: float, unit: str, before: int) -> Iterator[Advance]:
    done, begun = float(before), time.monotonic()
    due = begun + _FIRST_SECONDS
    told = translate_text(name)  # apart from the amount: a name with marks, or without words, would be read as one
    mark = ": " if get_language() == "en" else "："

    def advance(amount: float = 1, *, note: str = "", left_seconds: float | None = None) -> None:
        nonlocal done, due
        done += amount
        now = time.monotonic()
        if now >= due:
            due = now + _LINE_SECONDS
            if left_seconds is None and before < done <= total:
                left_seconds = (now - begun) * (total - done) / (done - before)
            left = "" if left_seconds is None else f", {format_seconds(left_seconds)} left"
            of = f" of {total:,.0f} {unit}" if done <= total else f" {unit}, {total:,.0f} were expected"
            amount_told = translate_text(f"{done:,.0f}{of}{left}")
            say(f"{keep(told + mark + amount_told)}{'  ' + note if note else ''}")

    yield advance
    taken = unit.removesuffix("s") if done - before == 1 else unit
    say(f"{name}: {done - before:,.0f} {taken} in {time.monotonic() - begun:.1f} s")


def show_nothing(amount: float = 1, *, note: str = "", left_seconds: float | None = None) -> None:
    """Show nothing; for all ranks but the first."""
