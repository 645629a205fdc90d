"""rows.jsonl: what training writes as it goes, on rank 0, so that a resumed run leaves the same file.

Rows of steps that will be taken again are dropped first; rows are on disk before the checkpoint that stands on them.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ropewalk.core.record import Row, append_rows, read_rows


@dataclass(frozen=True)
class Journal:
    """The run's rows; ``writes`` is False on every rank but one."""

    path: Path
    writes: bool

    def rewind(self, stage: int, step: int) -> None:
        """Drop what comes after ``step`` of ``stage``, and a torn last line."""
        if not self.writes or not self.path.exists():
            return
        kept = [row for row in read_rows(self.path) if (row.stage, row.step) <= (stage, step)]
        work = self.path.with_name(f".tmp-{self.path.name}")
        work.unlink(missing_ok=True)
        append_rows(work, kept)
        _flush(work)
        work.replace(self.path)

    def last_step(self, stage: int) -> int:
        """The last step of ``stage`` that has rows; 0 where none has."""
        rows = read_rows(self.path) if self.path.exists() else ()
        return max((row.step for row in rows if row.stage == stage), default=0)

    def append(self, rows: Iterable[Row]) -> None:
        if self.writes:
            append_rows(self.path, rows)

    def flush(self) -> None:
        """Return when all rows are on disk."""
        if self.writes and self.path.exists():
            _flush(self.path)


def _flush(path: Path) -> None:
    with path.open() as file:
        os.fsync(file.fileno())
