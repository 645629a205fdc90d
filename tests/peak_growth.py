"""What a process's memory grows by: the peak of its resident memory (VmHWM: private and mapped pages) above the start.

Linux sets the peak back when 5 is written to clear_refs.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

MIB = 1 << 20
PEAK = Path("/proc/self/clear_refs")
needs_peak = pytest.mark.skipif(not PEAK.exists(), reason="only Linux tells the peak of a process")


def grow(work: Callable[[], object]) -> int:
    """The most that resident memory rises above its start while ``work`` runs; what it returns is held until then."""
    PEAK.write_text("5")
    before = read_status("VmRSS")
    held = work()
    after = read_status("VmHWM")
    del held
    return after - before


def read_status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))
