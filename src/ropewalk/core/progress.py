"""What a person sees while something long runs: a bar on a terminal, a plain line every few seconds in a log."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

from ropewalk.core.quantity import format_seconds

_LINE_SECONDS = 5.0


@runtime_checkable
class Advance(Protocol):
    """Called with the amount just done and, if there are any, a note to show, and how long it will still take.

    Who does not say how long leaves it to what was done so far.
    """

    def __call__(self, amount: float = 1, *, note: str = "", left_seconds: float | None = None) -> None: ...


def say(line: str) -> None:
    """Print one line to standard error, where progress belongs; results go to standard output."""
    print(line, file=sys.stderr, flush=True)


@contextmanager
def watch(name: str, total: float, *, unit: str, before: int = 0) -> Iterator[Advance]:
    """Show the progress of ``total`` units of work under ``name`` for the length of the block.

    ``before`` of them were done earlier. Once more than ``total`` is done, nothing is said of what is left.
    """
    show = _draw_bar if sys.stderr.isatty() else _print_lines
    with show(name, total, unit, before) as advance:
        yield advance


@contextmanager
def _draw_bar(name: str, total: float, unit: str, before: int) -> Iterator[Advance]:
    # rich costs 30 ms to import; logs and --help never pay it.
    from rich.console import Console, RenderableType
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Left(TimeRemainingColumn):
        def render(self, task: Task) -> Text:
            seconds = task.fields["left_seconds"]
            return super().render(task) if seconds is None else Text(f"{format_seconds(seconds)} left")

    class Noted(Progress):
        """The bar in one line and the note below it, where it may break."""

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
                shown.total = None  # an archive holds more than its size: nobody knows what is left

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
            of = f" of {total:,.0f} {unit}" if done <= total else f" {unit}, {total:,.0f} were foreseen"
            say(f"{name}: {done:,.0f}{of}{left}{'  ' + note if note else ''}")

    yield advance
    say(f"{name}: {done - before:,.0f} {unit} in {time.monotonic() - begun:.1f} s")


def show_nothing(amount: float = 1, *, note: str = "", left_seconds: float | None = None) -> None:
    """What ranks beside the first show."""
