"""What a person sees while something long runs: a bar on a terminal, a plain line every few seconds in a log."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

_LINE_SECONDS = 5.0


class Advance(Protocol):
    """Called with the amount just done and, if there is one, a short note to show."""

    def __call__(self, amount: float = 1, *, note: str = "") -> None: ...


def say(line: str) -> None:
    """Print one line to standard error, where progress belongs; results go to standard output."""
    print(line, file=sys.stderr, flush=True)


@contextmanager
def watch(name: str, total: float, *, unit: str) -> Iterator[Advance]:
    """Show the progress of ``total`` units of work under ``name`` for the length of the block."""
    with _draw_bar(name, total, unit) if sys.stderr.isatty() else _print_lines(name, total, unit) as advance:
        yield advance


@contextmanager
def _draw_bar(name: str, total: float, unit: str) -> Iterator[Advance]:
    # rich costs 30 ms to import; logs and --help never pay it.
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = [
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    ]
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(name, total=total, note="")

        def advance(amount: float = 1, *, note: str = "") -> None:
            progress.update(task, advance=amount, note=note)

        yield advance


@contextmanager
def _print_lines(name: str, total: float, unit: str) -> Iterator[Advance]:
    done, begun = 0.0, time.monotonic()
    due = begun + _LINE_SECONDS

    def advance(amount: float = 1, *, note: str = "") -> None:
        nonlocal done, due
        done += amount
        now = time.monotonic()
        if now >= due:
            due = now + _LINE_SECONDS
            left = (now - begun) * (total - done) / done if done else float("inf")
            say(f"{name}: {done:,.0f} of {total:,.0f} {unit}, {left:,.0f} s left{'  ' + note if note else ''}")

    yield advance
    say(f"{name}: {done:,.0f} {unit} in {time.monotonic() - begun:.1f} s")
