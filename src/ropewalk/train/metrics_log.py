"""Write the metrics of training to ``metrics.jsonl``, on rank 0, so that a resumed run produces the same file.

On resume, the metrics of steps that will be repeated are removed first. Metrics are on disk before the checkpoint of
the same step.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ropewalk.core.record import Metric, append_metrics, read_metrics


@dataclass(frozen=True)
class MetricsLog:
    """The metrics file of a run. ``writes`` is True on one rank only."""

    path: Path
    writes: bool

    def rewind(self, stage: int, step: int) -> None:
        """Remove the metrics of ``stage`` after ``step``, and an incomplete last line.

        Those of other stages stay: a later one may have gone on when this one is only written again.
        """
        if not self.writes or not self.path.exists():
            return
        kept = [metric for metric in read_metrics(self.path) if metric.stage != stage or metric.step <= step]
        work = self.path.with_name(f".tmp-{self.path.name}")
        work.unlink(missing_ok=True)
        append_metrics(work, kept)
        _flush(work)
        work.replace(self.path)

    def last_step(self, stage: int) -> int:
        """Return the last step of ``stage`` that has metrics; 0 if there is none."""
        metrics = read_metrics(self.path) if self.path.exists() else ()
        return max((metric.step for metric in metrics if metric.stage == stage), default=0)

    def append(self, metrics: Iterable[Metric]) -> None:
        if self.writes:
            append_metrics(self.path, metrics)

    def flush(self) -> None:
        """Return when all metrics are on disk."""
        if self.writes and self.path.exists():
            _flush(self.path)


def _flush(path: Path) -> None:
    with path.open() as file:
        os.fsync(file.fileno())
