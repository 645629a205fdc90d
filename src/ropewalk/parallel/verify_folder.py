"""Verify that a finished folder still matches its manifest, before any of its files is used.

A tensor with one flipped bit loads without an error. Ranks that need the same folder divide the files among them, and
all get the same result, so that a fault ends all of them. The same rule holds for checkpoints and for model folders.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch.distributed as dist

from ropewalk.core.artifact import MANIFEST, find_change, find_misfit, is_finished, read_manifest
from ropewalk.core.error import UserError
from ropewalk.parallel.collective import gather_values, rank_and_ranks, share_from_first
from ropewalk.shape.weight_files import INDEX

_READ_BY_LOADERS = ("*.safetensors", INDEX, "config.json")
"""Files that change a model if they are present."""

_known: dict[Path, tuple[str, ...]] = {}
"""Model folders that this process found intact, with their stamps at that time. So each folder is read only once."""


def require_intact(folder: Path, *, together: bool = False) -> None:
    """Raise UserError unless a model folder matches its manifest, byte for byte. A folder without one is not checked.

    With ``together`` every rank must call it; each reads its share of the files, and all raise if one finds a fault.
    Otherwise this process alone reads all files. A folder that has not changed since the last check is not read again.
    """
    finished = is_finished(folder)
    if together:
        finished = share_from_first(finished)
    if not finished:
        return
    now = _stamp(folder)
    if all(gather_values(_known.get(folder) == now)) if together else _known.get(folder) == now:
        return
    fault = (
        find_fault_together(folder, only=_READ_BY_LOADERS)
        if together
        else find_folder_fault(folder, only=_READ_BY_LOADERS)
    )
    if fault is not None:
        raise _damaged(folder, fault)
    _known[folder] = now


def find_folder_fault(path: Path, *, only: tuple[str, ...] = ("*",)) -> str | None:
    """Read all files of a finished folder; return why it cannot be used, or None.

    A file that matches ``only`` and is not in the manifest is a fault too.
    """
    fault, files = _look_over(path, only)
    return fault or _find_change(path, files)


def find_fault_together(
    path: Path, *, only: tuple[str, ...] = ("*",), group: dist.ProcessGroup | None = None
) -> str | None:
    """Do the same as ``find_folder_fault``, with the files divided among the ranks.

    Every rank must call it, and all get the same result.
    """
    rank, ranks = rank_and_ranks()
    fault, files = share_from_first(_look_over(path, only) if rank == 0 else (None, {}), group=group)
    if fault is not None:
        return fault
    mine = {name: files[name] for name in sorted(files)[rank::ranks]}
    return next((fault for fault in gather_values(_find_change(path, mine), group=group) if fault), None)


def _look_over(path: Path, only: tuple[str, ...]) -> tuple[str | None, dict[str, Any]]:
    """Check a folder without reading its tensors. Return the fault or None, and the manifest's entries of all files."""
    if not is_finished(path):
        return "it has no manifest", {}
    try:
        manifest = read_manifest(path)
        fault = find_misfit(path)
        files: dict[str, Any] = manifest["files"]
        signed = "digest" in manifest
    except UserError as error:
        return error.why, {}
    except (KeyError, TypeError, AttributeError, OSError) as error:
        return f"its manifest does not say what it should: {error!r}", {}
    present = sorted({str(file.relative_to(path)) for kind in only for file in path.rglob(kind) if file.is_file()})
    extra = [name for name in present if name not in files and name != MANIFEST]
    if not signed:
        fault = fault or "its manifest has no digest of its own"
    return fault or (f"{extra[0]} is not in its manifest" if extra else None), files


def _find_change(path: Path, files: Mapping[str, Any]) -> str | None:
    try:
        return find_change(path, files)
    except OSError as error:  # a bad sector, or a machine without access to the folder
        return str(error)


def _stamp(folder: Path) -> tuple[str, ...]:
    """Return size, modification time and inode of all files. They change with the content, except for disk errors."""
    facts = ((path, path.stat()) for path in sorted(folder.rglob("*")) if path.is_file())
    return tuple(f"{path} {fact.st_size} {fact.st_mtime_ns} {fact.st_ino}" for path, fact in facts)


def _damaged(folder: Path, fault: str) -> UserError:
    linked = any(path.stat().st_nlink > 1 for path in folder.glob("*.safetensors"))
    links = "; its weight files are links to those of the model that it was made from, so look at that one first"
    return UserError(
        "a model folder is not what it was when it was written",
        where=str(folder),
        why=fault,
        fix="a run's own: remove the folder, and the same command makes it again from what stands before it; "
        "another's: get it again, or remove its manifest.json if it was changed on purpose" + (links if linked else ""),
    )
