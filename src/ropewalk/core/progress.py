"""Shows the progress of long work: a bar on a terminal, and a plain line every few seconds in a log."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

from ropewalk.core.quantity import format_seconds

_LINE_SECONDS = 5.0


@runtime_checkable
class Advance(Protocol):
    """Report the amount just done, optionally with a note to show and the remaining time in seconds.

    Without a remaining time, it is estimated from the work done so far.
    """

    def __call__(self, amount: float = 1, *, note: str = "", left_seconds: float | None = None) -> None: ...


def say(line: str) -> None:
    """Print one line to standard error, where progress belongs; results go to standard output."""
    print(line, file=sys.stderr, flush=True)


@contextmanager
def watch(name: str, total: float, *, unit: str, before: int = 0) -> Iterator[Advance]:
    """Show the progress of ``total`` units of work under ``name`` for the length of the block.

    ``before`` units were done earlier. If more than ``total`` is done, no remaining time is shown.
    """
    show = _draw_bar if sys.stderr.isatty() else _print_lines
    with show(name, total, unit, before) as advance:
        yield advance


@contextmanager
def _draw_bar(name: str, total: float, unit: str, before: int) -> Iterator[Advance]:
    # Importing rich takes 30 ms, so it is imported only for a terminal, not for logs or --help.
    from rich.console import Console, RenderableType
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Left(TimeRemainingColumn):
        def render(self, task: Task) -> Text:
            seconds = task.fields["left_seconds"]
            return super().render(task) if seconds is None else Text(f"{format_seconds(seconds)} left")

    class Noted(Progress):
        """A bar on one line, and the note on the lines below it."""

        def get_renderables(self) -> Iterator[RenderableType]:
            yield self.make_tasks_table(self.tasks)
            yield from (Text(task.fields["note"]) for task in self.tasks if task.fields["note"])

    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit), Left()]
    with Noted(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(name, total=total, completed=before, note="", left_seconds=None)

        def advance(amount: float = 1, *, note: str = "", left_seconds: float | None = None) -> None:
            progress.update(task, advance=amount, note=note, left_seconds=left_seconds)
            shown = progress.tasks[task]
            if shown.total is not None and shown.completed > shown.total:
                shown.total = None  # an archive can hold more than its size, so the rest cannot be computed

        yield advance


@contextmanager
def _print_lines(name: str, total: float, unit: str, before: int) -> Iterator[Advance]:
    done, begun = float(before), time.monotonic()
    due = begun + _LINE_SECONDS

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
            say(f"{name}: {done:,.0f}{of}{left}{'  ' + note if note else ''}")

    yield advance
    say(f"{name}: {done - before:,.0f} {unit} in {time.monotonic() - begun:.1f} s")


def show_nothing(amount: float = 1, *, note: str = "", left_seconds: float | None = None) -> None:
    """Show nothing; for all ranks but the first."""
