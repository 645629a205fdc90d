"""Writes folders that appear complete or not at all; a folder is finished when its manifest exists.

Files are written into a hidden folder beside the target. Then every file is hashed into ``manifest.json``, everything
is flushed to disk, and one rename publishes the folder. A crash leaves a ``.tmp-`` folder; the next attempt removes it.
"""

import fcntl
import json
import os
import re
import shutil
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ropewalk.core.digest import digest_bytes, digest_file
from ropewalk.core.error import UserError
from ropewalk.core.quantity import format_bytes
from ropewalk.core.strict_json import drop_infinities, spell_json

MANIFEST = "manifest.json"
_LOCK_TRIES, _LOCK_PAUSE_SECONDS = 20, 0.1
FORMAT = 1
_SAID = {"kind", "inputs", "facts", "files"}
_FULL_BYTES = 1 << 16  # less than any folder that is worth writing


class FolderInUseError(UserError):
    """Another process holds the folder."""


def is_finished(folder: Path) -> bool:
    return (folder / MANIFEST).is_file()


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a finished folder: ``{format, kind, inputs, facts, files: {name: {bytes, digest}}}``."""
    path = folder / MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(path.read_text())
        if not isinstance(manifest, dict) or not manifest.keys() >= _SAID:
            raise ValueError(f"it does not have all of the keys {', '.join(sorted(_SAID))}")
    except FileNotFoundError:
        raise UserError(
            f"{folder} is not finished", where=str(path), why="it has no manifest", fix="run the part that makes it"
        ) from None
    except ValueError as error:  # JSON's and UTF-8's errors are ValueErrors too
        raise UserError(
            "a manifest cannot be read", where=str(path), why=str(error), fix=f"remove {folder} and run the part again"
        ) from None
    return manifest


@contextmanager
def new_folder(
    folder: Path, *, kind: str, inputs: Mapping[str, Any], facts: Callable[[], Mapping[str, Any]] | None = None
) -> Iterator[Path]:
    """Yield a working folder that becomes ``folder`` when the block ends without an error.

    ``inputs`` are the digests and specs that determine the contents. ``facts()`` is called at the end; it returns facts
    that were found during the writing. After an error nothing is left, not even parent folders.

    Raises FileExistsError if ``folder`` is finished already: nothing is ever overwritten. Raises UserError if something
    else is at its place, and if the disk is full, even if a library raises an error of its own for it.
    """
    refuse_unfinished(folder)
    if folder.exists():
        raise FileExistsError(folder)
    made = _make_folder(folder.parent)
    stale_name = re.compile(rf"\.tmp-{re.escape(folder.name)}-\d+")  # not that of a folder whose name only begins so
    for stale in folder.parent.iterdir():
        if stale_name.fullmatch(stale.name):
            shutil.rmtree(stale)
    work = folder.parent / f".tmp-{folder.name}-{os.getpid()}"
    work.mkdir()
    try:
        yield work
        seal(work, kind=kind, inputs=inputs, facts=facts() if facts else {})
        publish(work, folder)
    except BaseException as error:
        is_full = isinstance(error, Exception) and shutil.disk_usage(folder.parent).free < _FULL_BYTES
        shutil.rmtree(work, ignore_errors=True)
        _remove_empty(made)
        if is_full and not isinstance(error, UserError):
            raise UserError(
                "the disk is full",
                where=str(folder),
                why=str(error),
                fix="free some space, or choose a folder on another disk",
            ) from None
        raise


def refuse_unfinished(folder: Path) -> None:
    """Raise UserError where ``folder`` exists and has no manifest: the user may need its files. A long part asks before
    it begins."""
    if folder.exists() and not is_finished(folder):
        raise UserError(
            "something else is at the place of a folder",
            where=str(folder),
            why=f"it exists and has no {MANIFEST}: somebody made it, or it is a copy that was not finished",
            fix="remove it, or choose another folder",
        )


def seal(
    work: Path,
    *,
    kind: str,
    inputs: Mapping[str, Any],
    facts: Mapping[str, Any],
    names: Iterable[str] | None = None,
) -> None:
    """Hash the files of ``work`` (all, or those in ``names``) into its manifest, and flush all of it to disk."""
    if names is None:
        names = [str(path.relative_to(work)) for path in work.rglob("*") if path.is_file()]
    write_manifest(work, kind=kind, inputs=inputs, facts=facts, files=flush_files(work, names))


def flush_files(work: Path, names: Iterable[str]) -> dict[str, Any]:
    """Flush files of ``work`` to disk and return their entries for its manifest.

    Several processes may share the files.
    """
    files = {}
    for name in sorted(names):
        _flush(work / name)
        files[name] = {"bytes": (work / name).stat().st_size, "digest": digest_file(work / name)}
    return files


def write_manifest(
    work: Path, *, kind: str, inputs: Mapping[str, Any], facts: Mapping[str, Any], files: Mapping[str, Any]
) -> None:
    """Seal ``work`` with the entries of its files, which are on disk already; flush the manifest, then the folders."""
    told = {"format": FORMAT, "kind": kind, "inputs": dict(inputs), "facts": dict(facts), "files": dict(files)}
    manifest = drop_infinities(told)  # before the digest, which is of what is read back
    manifest["digest"] = _digest_manifest(manifest)
    target = work / MANIFEST
    target.write_text(spell_json(manifest, indent=1, ensure_ascii=False, sort_keys=True))
    _flush(target)
    for inner in [*(path for path in work.rglob("*") if path.is_dir()), work]:
        _flush(inner)


def _digest_manifest(manifest: Mapping[str, Any]) -> str:
    """Digest of the whole manifest as it is read back; it also shows a flipped bit in the manifest itself."""
    said = json.loads(json.dumps({key: value for key, value in manifest.items() if key != "digest"}))
    return digest_bytes(json.dumps(said, sort_keys=True).encode())


def publish(work: Path, folder: Path) -> None:
    """Rename a sealed folder to its final name, and flush the rename to disk."""
    work.rename(folder)
    _flush(folder.parent)


def write_whole(path: Path, text: str) -> None:
    """Write a file that is never seen half-written: write to a temporary name, flush, rename."""
    # Containers count their processes from 1, so two of them may write the same file of a shared disk at once. The host
    # name tells the two apart.
    aside = path.with_name(f".tmp-{path.name}-{socket.gethostname()}-{os.getpid()}")
    aside.write_text(text, encoding="utf-8")
    _flush(aside)
    aside.replace(path)
    _flush(path.parent)


def discard(path: Path) -> None:
    """Remove a file or folder if it exists. A kill in the middle leaves no partial folder under its final name."""
    trash = path.with_name(f".trash-{path.name}")
    shutil.rmtree(trash, ignore_errors=True)
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        path.rename(trash)
        shutil.rmtree(trash)


def find_damage(folder: Path) -> str | None:
    """The first difference between a finished folder and its manifest, or None: sizes first, then digests."""
    return find_misfit(folder) or find_change(folder, read_manifest(folder)["files"])


def find_misfit(folder: Path) -> str | None:
    """The damage that is visible without reading the files: a damaged manifest, a missing file, a wrong size."""
    manifest = read_manifest(folder)
    if manifest.get("digest", _digest_manifest(manifest)) != _digest_manifest(manifest):
        return f"{MANIFEST} does not have the digest that it contains"
    for name, expected in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != expected["bytes"]:
            return f"{name} has {path.stat().st_size} bytes, not {expected['bytes']}"
    return None


def find_change(folder: Path, files: Mapping[str, Any]) -> str | None:
    """The first of ``files`` (entries of the folder's manifest) whose bytes have another digest.

    None if there is none.
    """
    for name, expected in files.items():
        if digest_file(folder / name) != expected["digest"]:
            return f"{name} does not have the digest in its manifest"
    return None


@contextmanager
def hold(folder: Path, *, waits: bool = False) -> Iterator[None]:
    """Keep other processes out of ``folder`` for the length of the block.

    If another process holds it, ``waits`` decides: True waits, False raises FolderInUseError. If the block fails, a
    folder that this call has made is removed, with its lock and notes, unless it contains another folder.
    """
    made = _make_folder(folder)
    with (folder / ".lock").open("a+") as lock:
        if waits:
            fcntl.flock(lock.fileno(), fcntl.LOCK_EX)
        elif not _lock_soon(lock.fileno()):
            lock.seek(0)
            raise FolderInUseError(
                "the folder is in use",
                where=str(folder),
                why=f"held by {lock.read().strip() or 'another process'}",
                fix="wait for it, stop it, or name another folder in the recipe (run, corpus.store)",
            )
        lock.truncate(0)
        lock.write(f"pid {os.getpid()} on {socket.gethostname()}")
        lock.flush()
        try:
            yield
        except BaseException:
            if made and not any(path.is_dir() for path in folder.iterdir()):
                shutil.rmtree(folder)
                _remove_empty(made[1:])
            raise


def _lock_soon(handle: int) -> bool:
    """Take the lock.

    Wait a moment for ranks of a run that was just killed: a fork still holds the lock of its parent.
    """
    for _ in range(_LOCK_TRIES):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            time.sleep(_LOCK_PAUSE_SECONDS)
    return False


def _make_folder(folder: Path) -> list[Path]:
    """Make ``folder`` with its parents; return the folders that were new, innermost first."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:  # a file has this name, or there is no permission to write here
        raise UserError(
            "this folder cannot be made",
            where=str(folder),
            why=error.strerror or str(error),
            fix="choose another folder, or remove the file at its place",
        ) from None
    return made


def _remove_empty(folders: Iterable[Path]) -> None:
    """Remove empty folders from the innermost outwards; stop at the first one that is not empty."""
    for folder in folders:
        if any(folder.iterdir()):
            return
        folder.rmdir()


def require_free(folder: Path, needed_bytes: int) -> None:
    """Raise UserError unless the disk under ``folder`` has ``needed_bytes`` free."""
    existing = next(parent for parent in (folder, *folder.resolve().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < needed_bytes:
        raise UserError(
            "not enough free disk",
            where=str(folder),
            why=f"{format_bytes(needed_bytes)} needed, {format_bytes(free)} free",
            fix="free some space, or choose a folder on another disk",
        )


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
