"""Puts a worker's own memory into huge pages: a fork copies one entry for each, where it copied 512.

A worker of 320 MiB forks some hundred times: a start of two ranks takes half of the processor time (docs/log.md). Linux
does it since 6.1, and refuses it for a page where free memory is in pieces; that page stays as it is.
"""

import ctypes
from pathlib import Path

_COLLAPSE = 25
"""MADV_COLLAPSE, which Python's mmap does not name."""
_HUGE_BYTES = 1 << 21
_MAPS = Path("/proc/self/maps")


def collapse_pages() -> None:
    """Nothing but the pages changes, and nothing at all where Linux cannot do it."""
    if not _MAPS.exists():
        return
    advise = ctypes.CDLL(None).madvise
    advise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    for line in _MAPS.read_text().splitlines():
        addresses, mode, _, _, inode, *_ = line.split(maxsplit=5)
        if mode != "rw-p" or inode != "0":  # shared, or of a file
            continue
        start, end = (int(each, 16) for each in addresses.split("-"))
        for at in range(-(-start // _HUGE_BYTES) * _HUGE_BYTES, end - _HUGE_BYTES + 1, _HUGE_BYTES):
            advise(at, _HUGE_BYTES, _COLLAPSE)
