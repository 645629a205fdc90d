"""The memory that the processes of this machine may use: all of it, or what a container or a job is limited to.

A pod or a batch job mostly gets a part of its node, and the kernel ends it where it takes more.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from ropewalk.core.control_groups import list_group_folders


def count_host_bytes(root: Path = Path("/")) -> float:
    """The least of the machine's memory and the limits of this process's control groups, in bytes.

    ``root`` is where ``/proc`` and ``/sys`` are.
    """
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return float(min([whole, *_list_limits(root)]))


def _list_limits(root: Path) -> Iterator[int]:
    for folder in list_group_folders("memory", root):
        for name in ("memory.max", "memory.limit_in_bytes"):  # version 2, 1
            file = folder / name
            text = file.read_text(encoding="ascii", errors="replace").strip() if file.is_file() else ""
            if text.isdecimal():  # version 2 says "max" where there is none
                yield int(text)
