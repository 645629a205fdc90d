"""Puts a finished folder of one cell of a study into another cell, as hard links where the disk can have them."""

import os
import shutil
from pathlib import Path

from ropewalk.core.artifact import publish


def link_files(source: Path, target: Path, *, without: tuple[str, ...] = ()) -> None:
    """A copy of a folder whose files are hard links where the disk can have them; it appears complete or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    work = target.parent / f".tmp-{target.name}-{os.getpid()}"
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(source, work, copy_function=_link_file, ignore=shutil.ignore_patterns(*without, ".tmp-*", ".lock"))
    publish(work, target)


def _link_file(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or one without links
        shutil.copy2(source, target)
