"""How many processors this process may use: those it may run on, and no more than its container's share of time.

A container is usually limited by time (Kubernetes' ``limits: {cpu: 16}``, ``docker --cpus``) and still sees every
processor of its machine. One worker for each of these would take several times the memory that the container has.
"""

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

_GROUPS, _OWN = Path("sys/fs/cgroup"), Path("proc/self/cgroup")


def count_cores(root: Path = Path("/")) -> int:
    """The number of processors, at least 1. ``root`` is where ``/proc`` and ``/sys`` are."""
    free = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([free, *(math.ceil(limit) for limit in _read_limits(root))]))


def _read_limits(root: Path) -> Iterator[float]:
    """The limits of this process's control groups and of all above them, in processors."""
    with suppress(OSError, ValueError):
        for line in (root / _OWN).read_text().splitlines():
            _, kinds, path = line.split(":", 2)
            if kinds and "cpu" not in kinds.split(","):
                continue
            mount = root / _GROUPS / ("cpu" if kinds else "")  # version 2 names no kinds, and has one tree
            parts = PurePosixPath(path).relative_to("/").parts
            # A container may see its own group as the root of the tree, whatever its path is called outside.
            for depth in range(len(parts) + 1):
                yield from _read_limit(mount.joinpath(*parts[:depth]))


def _read_limit(folder: Path) -> Iterator[float]:
    """``quota / period`` of a group in version 2 or 1, where it has one: the word ``max`` and -1 mean none."""
    with suppress(OSError, ValueError):
        quota, period = (folder / "cpu.max").read_text().split()
        yield int(quota) / int(period)
    with suppress(OSError, ValueError):
        old = int((folder / "cpu.cfs_quota_us").read_text())
        if old > 0:
            yield old / int((folder / "cpu.cfs_period_us").read_text())
