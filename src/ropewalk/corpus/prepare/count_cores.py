"""How many processors this process may use: those it may run on, and no more than its container's share of time.

A container is usually limited by time (Kubernetes' ``limits: {cpu: 16}``, ``docker --cpus``) and still sees every
processor of its machine. One worker for each of these would take several times the memory that the container has.
"""

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ropewalk.core.control_groups import list_group_folders


def count_cores(root: Path = Path("/")) -> int:
    """The number of processors, at least 1. ``root`` is where ``/proc`` and ``/sys`` are."""
    free = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limits = (limit for folder in list_group_folders("cpu", root) for limit in _read_limit(folder))
    return max(1, min([free, *map(math.ceil, limits)]))


def _read_limit(folder: Path) -> Iterator[float]:
    """``quota / period`` of a group in version 2 or 1, where it has one: the word ``max`` and -1 mean none."""
    with suppress(OSError, ValueError):
        quota, period = (folder / "cpu.max").read_text().split()
        yield int(quota) / int(period)
    with suppress(OSError, ValueError):
        old = int((folder / "cpu.cfs_quota_us").read_text())
        if old > 0:
            yield old / int((folder / "cpu.cfs_period_us").read_text())
