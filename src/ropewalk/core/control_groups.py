"""The control groups of this process, in whose files Linux tells what a container or a batch job may use."""

from collections.abc import Iterator
from pathlib import Path

_GROUPS, _OWN = Path("sys/fs/cgroup"), Path("proc/self/cgroup")


def list_group_folders(kind: str, root: Path = Path("/")) -> Iterator[Path]:
    """The folders of the groups that limit ``kind`` (``cpu``, ``memory``) for this process, of version 1 or 2.

    They are its own group and all above it: a group is also held to the limits of those around it. A container may see
    its own group as the root of the tree, whatever its path is called outside. ``root`` is where ``/proc`` and ``/sys``
    are. Folders need not exist.
    """
    own = root / _OWN
    lines = own.read_text(encoding="utf-8", errors="replace").splitlines() if own.is_file() else []
    for line in lines:
        if line.count(":") < 2:
            continue
        _, kinds, inside = line.split(":", 2)
        if kinds and kind not in kinds.split(","):
            continue
        mount = root / _GROUPS / (kind if kinds else "")  # version 2 names no kinds, and has one tree
        place = Path(inside.strip("/"))
        for around in (place, *place.parents):
            yield mount / around
