"""A disk of a few bytes, for tests of what happens where the disk is full."""

import ctypes
import os
from pathlib import Path

_NEW_NAMESPACE, _NEW_USER = 0x00020000, 0x10000000


def mount(folder: Path, size_bytes: int, *, again: bool = False) -> bool:
    """A tmpfs of ``size_bytes`` on ``folder``, seen by this process and its children; False where that is refused."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not again:
        ids = os.getuid(), os.getgid()
        if libc.unshare(_NEW_NAMESPACE | (_NEW_USER if ids[0] else 0)) != 0:
            return False
        if ids[0]:
            Path("/proc/self/setgroups").write_text("deny")
            for name, own in zip(("uid_map", "gid_map"), ids, strict=True):
                Path(f"/proc/self/{name}").write_text(f"0 {own} 1")
        libc.mount(b"none", b"/", None, 0x44000, None)  # private, recursively: nothing gets out
    flags = 0x20 if again else 0  # remount
    return libc.mount(b"tmpfs", str(folder).encode(), b"tmpfs", flags, f"size={size_bytes}".encode()) == 0
