"""Files of a text folder or code tree: each is a document, and its folder, package or repository says what it is
joined with.

For code, long context serves to read whole repositories. Files follow in the order of their paths, or after those that
they import (the order of DeepSeek-Coder).
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from ropewalk.corpus.read.files import File
from ropewalk.corpus.text.reject import spell_name

_MANIFESTS = (
    "pyproject.toml",
    "setup.py",
    "package.json",
    "Cargo.toml",
    "go.mod",
    "pom.xml",
    "build.gradle",
    "CMakeLists.txt",
)
_DASHES = {".sql", ".lua", ".hs"}
_SEMICOLONS = {".clj", ".lisp", ".el"}
_HASHES = {".py", ".pyi", ".rb", ".pl", ".r", ".jl", ".ex", ".sh", ".toml", ".cmake", ".mk", ".nim"}


class Member(NamedTuple):
    """A file of a group. ``name`` is its path inside the group's folder."""

    file: File
    name: str


def group_files(files: Sequence[File], by: str, root: Path) -> Iterator[tuple[str, list[Member]]]:
    """Yield ``(id, members)`` of each group of files that are joined, in order: of a folder, package or repository.

    The id is a path relative to ``root``.
    """

    def home(file: File) -> Path:
        if by == "folder":
            return file.path.parent
        return _find_package(file.path, root) if by == "package" else _find_repository(file.path, root)

    ordered = sorted(files, key=lambda file: (home(file), file.path))
    for folder, members in groupby(ordered, key=home):
        yield (
            spell_name(folder.relative_to(root).as_posix()),
            [Member(each, _seen_from(folder, each.path)) for each in members],
        )


def describe_file(member: Member, id: str) -> dict[str, str]:
    """The fields of a file, for headers and the order of a join."""
    path = Path(member.name)
    return {"path": member.name, "name": path.stem, "folder": id, "comment": _comment(path)}


def _seen_from(folder: Path, path: Path) -> str:
    return spell_name(path.relative_to(folder).as_posix() if path != folder else path.name)


def _find_repository(path: Path, root: Path) -> Path:
    """The folder directly below the source's path. Files directly in the source's path form one repository."""
    parts = path.relative_to(root).parts if path.is_relative_to(root) else path.parts[-1:]
    return root / parts[0] if len(parts) > 1 else root


def _find_package(path: Path, root: Path) -> Path:
    """The nearest folder with a package manifest, within the source's path; else the repository."""
    for folder in path.parents:
        if any((folder / name).is_file() for name in _MANIFESTS):
            return folder
        if folder == root:
            break
    return _find_repository(path, root)


def _comment(path: Path) -> str:
    ending = path.suffix.lower()
    if ending in _HASHES:
        return "#"
    return "--" if ending in _DASHES else ";;" if ending in _SEMICOLONS else "//"
