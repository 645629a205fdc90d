"""Finds the files of a path: a file, a folder or a glob. It also lists the files that are not read, with the reason.

Links are followed, and each file is read only once. Names are relative to the source's root, which is the folder or the
fixed part of a glob. So the text can be moved and stays the same text.
"""

import os
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from ropewalk.core.error import UserError
from ropewalk.corpus.read.archive import PACKED
from ropewalk.corpus.read.files import CODE, File, Kind, kind_of, sniff_kind, suffix_of, why_unread
from ropewalk.corpus.text.reject import spell_name

_DATASET_MARKS = ("dataset_dict.json", "state.json")
PASSED_OVER = ("node_modules", "__pycache__", "vendor")
WILD = re.compile(r"[*?[]")
_LINK, _AGAIN = "(link)", "a link to a file that is read at its own place"
HIDDEN = "its name, or the name of its folder, begins with a dot"


@dataclass(frozen=True, slots=True)
class Unread:
    """A number of files of one sort (usually one suffix) that a source does not read."""

    sort: str
    why: str
    files: int

    def __str__(self) -> str:
        return f"{self.files:,} {self.sort} ({self.why})"


@dataclass(frozen=True, slots=True)
class FoundFiles:
    """The files of a source in the order of their names. Names are relative to ``root``."""

    root: Path
    files: tuple[File, ...]
    unread: tuple[Unread, ...] = ()


@dataclass(frozen=True, slots=True)
class _Met:
    """A path found in the search. ``why`` is the reason for not reading it, and ``sort`` groups such paths; ``sort`` is
    None where the suffix decides."""

    path: Path
    sort: str | None = None
    why: str = ""


def find_files(path: str, *, code: bool, where: str) -> FoundFiles:
    """The files of a path on this machine (remote.py has those on the network). Raises UserError where none is read.

    With ``code`` only one sort of file is read: programs. Without programs it is records, and without these it is
    texts.
    """
    named = _local(path, where)
    if named.is_file():
        kind = kind_of(named, code=code) or _sniff(named) or ("text" if suffix_of(named) in ("", *PACKED) else None)
        if kind is None:
            raise _refuse(named, f"{where}: {path}", code=code)
        return FoundFiles(named.parent, (File(named, spell_name(named.name), kind),))
    root, met = _meet(named)
    kinds = {m.path: kind_of(m.path, code=code) or _sniff(m.path) for m in met if m.sort is None}
    if code:
        kinds = narrow(kinds)
    again = _find_repeated([file for file, kind in kinds.items() if kind is not None])
    files, unread = [], Counter[tuple[str, str]]()
    for m in met:
        kind = kinds.get(m.path)
        if kind is None:
            unread[m.sort or suffix_of(m.path) or "(no suffix)", m.why or why_unread(m.path, code=code)] += 1
        elif m.path in again:
            unread[_LINK, _AGAIN] += 1
        else:
            files.append(File(m.path, _name_in(root, m.path), kind))
    told = tuple(Unread(sort, why, count) for (sort, why), count in sorted(unread.items()))
    if not files:
        raise without_files(_nothing_at(named), told, where=f"{where}: {path}")
    return FoundFiles(root, tuple(sorted(files, key=lambda file: Path(file.name))), told)


def find_all(path: str, *, kind: Kind, where: str) -> FoundFiles:
    """All files of a path, with any suffix, read as one ``kind``: token ids or a saved dataset."""
    named = _local(path, where)
    if named.is_file():
        return FoundFiles(named.parent, (File(named, spell_name(named.name), kind),))
    root, met = _meet(named)
    files = [File(m.path, _name_in(root, m.path), kind) for m in met if m.sort is None]
    if not files:
        raise without_files(_nothing_at(named), (), where=f"{where}: {path}")
    return FoundFiles(root, tuple(sorted(files, key=lambda file: Path(file.name))))


def is_saved_dataset(path: str) -> bool:
    """Whether ``path`` is a folder that `datasets` saved to disk."""
    return any((Path(path) / mark).is_file() for mark in _DATASET_MARKS)


def _local(path: str, where: str) -> Path:
    if "://" in path:
        raise UserError(
            "a network address cannot be read here",
            where=f"{where}: {path}",
            why="token ids are mapped into memory from files on this machine",
            fix="copy it to a folder on this machine, and give that path",
        )
    return Path(path)


def _refuse(path: Path, where: str, *, code: bool) -> UserError:
    what, _, fix = why_unread(path, code=code).partition(": ")
    return UserError(
        f"files ending in {suffix_of(path)} are not read", where=where, why=what, fix=fix or "give another file"
    )


def without_files(nothing: str, unread: Sequence[Unread], *, where: str) -> UserError:
    """The error for a path of which no file is read: because of ``unread``, or else because of ``nothing``."""
    why = f"none of its files can be read: {'; '.join(map(str, unread))}" if unread else nothing
    return UserError("a source has no files", where=where, why=why, fix="correct the path, or the files in it")


def _name_in(root: Path, path: Path) -> str:
    return spell_name(path.relative_to(root).as_posix())


def _nothing_at(named: Path) -> str:
    return "the folder is empty" if named.is_dir() else f"no such file or folder, seen from {Path.cwd()}"


def _sniff(path: Path) -> Kind | None:
    return sniff_kind(path) if suffix_of(path) in ("", *PACKED) else None


def narrow(kinds: Mapping[Path, Kind | None]) -> dict[Path, Kind | None]:
    """Keep only the programs of a tree of programs, and not the data and texts beside them."""

    def rank(path: Path, kind: Kind) -> int:
        return 0 if suffix_of(path) in CODE else 1 if File(path, "", kind).is_record else 2

    ranks = {path: rank(path, kind) for path, kind in kinds.items() if kind is not None}
    best = min(ranks.values(), default=0)
    return {path: kind if ranks.get(path) == best else None for path, kind in kinds.items()}


def _find_repeated(paths: Sequence[Path]) -> Collection[Path]:
    """Links to files that are read under another name."""
    links = [path for path in paths if path.is_symlink()]
    if not links:
        return ()
    seen = {_identity(path) for path in paths if not path.is_symlink()}
    repeated = set()
    for link in sorted(links):
        if _identity(link) in seen:
            repeated.add(link)
        seen.add(_identity(link))
    return repeated


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _meet(named: Path) -> tuple[Path, list[_Met]]:
    """The root of a folder or a glob, and all paths in it: first its own files, then the targets of links."""
    if not named.is_dir():
        parts = named.parts
        fixed = next((at for at, part in enumerate(parts) if WILD.search(part)), len(parts) - 1)
        root = Path(*parts[:fixed])
        return root, [*dict.fromkeys(_match(root, parts[fixed:], set()))] if root.is_dir() else []
    # A link to a parent folder would cause an endless loop.
    seen = {_identity(folder) for folder in (named, *named.resolve().parents)}
    links: list[Path] = []
    met = [*_walk(named, seen, links)]
    for link in links:  # the list grows during this loop
        if _identity(link) in seen:
            met.append(_Met(link, _LINK, _AGAIN))
        else:
            seen.add(_identity(link))
            met += _walk(link, seen, links)
    return named, met


def _walk(folder: Path, seen: set[tuple[int, int]], links: list[Path]) -> Iterator[_Met]:
    """All paths in a folder and below it. Links to folders are appended to ``links``."""
    for entry in _list(folder):
        path = folder / entry.name
        if passed := _passes_over(entry, path):
            yield from passed
        elif not entry.is_dir():
            yield _meet_file(entry, path)
        elif entry.is_symlink():
            links.append(path)
        elif _identity(path) in seen:
            yield _Met(path, _LINK, _AGAIN)
        else:
            seen.add(_identity(path))
            yield from _walk(path, seen, links)


def _match(folder: Path, parts: Sequence[str], seen: set[tuple[int, int, int]]) -> Iterator[_Met]:
    """All paths that a glob matches. ``**`` means any number of folders. If the glob ends on a folder, the folder is
    reported and not read."""
    deep = parts[0] == "**"
    key = (*_identity(folder), len(parts))
    if deep and key in seen:  # already reached through a link
        return
    seen.add(key)
    if deep and len(parts) > 1:
        yield from _match(folder, parts[1:], seen)
    for entry in _list(folder):
        path = folder / entry.name
        if not (deep or fnmatchcase(entry.name, parts[0])):
            continue
        named = entry.name == parts[0] or parts[0].startswith(".")
        if not named and (passed := _passes_over(entry, path)):
            yield from passed
        elif entry.is_dir() and (deep or len(parts) > 1):
            yield from _match(path, parts if deep else parts[1:], seen)
        elif entry.is_dir():
            yield _Met(path, "(folder)", "a glob must match files: end it with /**/* to read the files in folders")
        elif len(parts) == 1:
            yield _meet_file(entry, path)


def _passes_over(entry: os.DirEntry[str], path: Path) -> list[_Met]:
    """The files of a hidden entry, or of a folder of packages or caches, with the reason. Empty for other entries."""
    hidden = entry.name.startswith(".")
    if not hidden and not (entry.name in PASSED_OVER and entry.is_dir()):
        return []
    sort, why = ("(hidden)", HIDDEN) if hidden else (f"(in {entry.name})", "a folder of packages or caches")
    inside = [Path(home) / name for home, _, names in os.walk(path) for name in names] if entry.is_dir() else [path]
    return [_Met(each, sort, why) for each in inside]


def _meet_file(entry: os.DirEntry[str], path: Path) -> _Met:
    if entry.is_file():
        return _Met(path)
    return _Met(path, _LINK, "a broken link") if entry.is_symlink() else _Met(path, "(no file)", "not a regular file")


def _list(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return sorted(entries, key=lambda entry: entry.name)
