"""The memory that the processes of this machine may use: all of it, or what a container or a job is limited to.

A pod or a batch job mostly gets a part of its node, and the kernel ends it where it takes more. Linux tells the limits
in the files of control groups, of version 1 and 2.
"""

import os
from collections.abc import Iterator
from pathlib import Path

_GROUPS, _OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def count_host_bytes(*, groups: Path = _GROUPS, own: Path = _OWN) -> float:
    """The least of the machine's memory and the limits of this process's control groups, in bytes.

    ``groups`` is where control groups are mounted, ``own`` tells the ones of this process.
    """
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return float(min([whole, *_list_limits(groups, own)]))


def _list_limits(groups: Path, own: Path) -> Iterator[int]:
    """The limits that are set; a group is also held to those of the groups around it."""
    lines = own.read_text(encoding="utf-8", errors="replace").splitlines() if own.is_file() else []
    for line in lines:
        _, kinds, inside = line.split(":", 2) if line.count(":") >= 2 else ("", "none", "")
        if kinds and "memory" not in kinds.split(","):
            continue
        folder, name = (groups / "memory", "memory.limit_in_bytes") if kinds else (groups, "memory.max")
        place = Path(inside.strip("/"))
        for around in (place, *place.parents):
            file = folder / around / name
            text = file.read_text(encoding="ascii", errors="replace").strip() if file.is_file() else ""
            if text.isdecimal():  # version 2 says "max" where there is none
                yield int(text)
