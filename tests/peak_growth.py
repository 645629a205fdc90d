"""What a process's memory grows by: the peak of its resident memory (VmHWM: private and mapped pages) above the start.

Linux sets the peak back when 5 is written to clear_refs. A fork has its parent's private pages, but a page of a library
counts when it first uses it, 10 to 30 MiB for a load and a save. So all pages of libraries count before the start.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

MIB = 1 << 20
PEAK = Path("/proc/self/clear_refs")
_MAPPED_BYTES = 1 << 16
"""Of a file around a page that is read: what Linux maps with it, where the file is in memory."""
needs_peak = pytest.mark.skipif(not PEAK.exists(), reason="only Linux tells the peak of a process")


def grow(work: Callable[[], object]) -> int:
    """The most that resident memory rises above its start while ``work`` runs; what it returns is held until then."""
    _map_libraries()
    PEAK.write_text("5")
    before = read_status("VmRSS")
    held = work()
    after = read_status("VmHWM")
    del held
    return after - before


def _map_libraries() -> None:
    """Read each library through the file of this process's memory: an address beyond its end is an error there."""
    maps = [line.split(maxsplit=5) for line in Path("/proc/self/maps").read_text().splitlines()]
    with Path("/proc/self/mem").open("rb", buffering=0) as memory:
        for addresses, *_ in (each for each in maps if len(each) == 6 and ".so" in each[5] and each[1][0] == "r"):
            start, end = (int(each, 16) for each in addresses.split("-"))
            for address in range(start, end, _MAPPED_BYTES):
                with suppress(OSError):
                    os.pread(memory.fileno(), 1, address)


def read_status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))
