"""Makes documents from a tree of programs: one document per file, or one per folder, package or repository.

For code, long context serves to read whole repositories. Within a repository, files are in the order of their paths,
or each file comes after the files that it imports (the order of DeepSeek-Coder). A comment line with its path precedes
each file.
"""

import re
from collections.abc import Iterator, Sequence
from heapq import heapify, heappop, heappush
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from ropewalk.corpus.read.files import CODE, File
from ropewalk.corpus.spec import FileOptions

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
_IMPORTS = re.compile(
    r"^[ \t]*from[ \t]+(?P<origin>[.\w]+)[ \t]+import\b(?P<names>[ \t]*[\w, \t]*)"
    r"|^[ \t]*import[ \t]+(?P<module>[\w.]+(?:[ \t]*,[ \t]*[\w.]+)*)[ \t;]*(?:as\b.*)?$"
    r"|^[ \t]*#[ \t]*include[ \t]*[\"<](?P<header>[^\">]+)[\">]"
    r"|\bfrom[ \t]+[\"'](?P<path>\.[^\"']+)[\"']|\brequire\([\"'](?P<required>\.[^\"']+)[\"']\)"
    r"|^[ \t]*(?:pub[ \t]+)?mod[ \t]+(?P<mod>\w+)[ \t]*;",
    re.MULTILINE,
)


class Member(NamedTuple):
    """A file of a document. ``name`` is its path as the document shows it."""

    file: File
    name: str

    @property
    def path(self) -> Path:
        """The path on disk."""
        return self.file.path


def group_files(files: Sequence[File], options: FileOptions, root: Path) -> Iterator[tuple[str, list[Member]]]:
    """Yield ``(id, members)`` of each document. The id is a path relative to ``root``; ``files`` must be sorted."""

    def home(path: Path) -> Path:
        match options.join:
            case "line" | "file":
                return path
            case "folder":
                return path.parent
            case "package":
                return _find_package(path, root)
            case "repository":
                return _find_repository(path, root)

    ordered = files
    if options.join not in ("file", "folder"):
        ordered = sorted(files, key=lambda file: (home(file.path), file.path))
    for folder, members in groupby(ordered, key=lambda file: home(file.path)):
        id = folder.relative_to(root).as_posix()
        yield id, [Member(file, _seen_from(folder, file.path)) for file in members]


def _seen_from(folder: Path, path: Path) -> str:
    return path.relative_to(folder).as_posix() if path != folder else path.name


def join_files(texts: Sequence[tuple[Member, str]], options: FileOptions) -> str:
    """Join the files of a document into one text."""
    if options.order == "dependency":
        texts = order_by_imports(texts)
    if not options.path_headers or options.join in ("file", "folder"):
        return "\n\n".join(text for _, text in texts)
    return "\n\n".join(f"{_comment(member.path)} {member.name}\n{text.strip(chr(10))}\n" for member, text in texts)


def order_by_imports(texts: Sequence[tuple[Member, str]]) -> list[tuple[Member, str]]:
    """Put each file after the files that it imports, else keep the given order. A cycle starts at its first file."""
    index = {member.name: number for number, (member, _) in enumerate(texts)}
    wanted = [_imports_of(member, text, index) - {number} for number, (member, text) in enumerate(texts)]
    wanted_by: list[list[int]] = [[] for _ in texts]
    for number, needs in enumerate(wanted):
        for need in needs:
            wanted_by[need].append(number)
    left = [len(needs) for needs in wanted]
    ready = [number for number, count in enumerate(left) if count == 0]
    heapify(ready)
    waiting = dict.fromkeys(range(len(texts)))
    order: list[int] = []
    while waiting:
        number = heappop(ready) if ready else next(iter(waiting))
        if number not in waiting:
            continue
        del waiting[number]
        order.append(number)
        for other in wanted_by[number]:
            left[other] -= 1
            if left[other] == 0 and other in waiting:
                heappush(ready, other)
    return [texts[number] for number in order]


def _imports_of(member: Member, text: str, index: dict[str, int]) -> set[int]:
    folder = Path(member.name).parent
    found: set[int] = set()
    for match in _IMPORTS.finditer(text):
        for stem in _stems(match, folder):
            for name in (
                stem,
                *(f"{stem}{end}" for end in CODE[:20]),
                f"{stem}/__init__.py",
                f"{stem}/index.js",
                f"{stem}/mod.rs",
            ):
                if name in index:
                    found.add(index[name])
                    break
    return found


def _stems(match: re.Match[str], folder: Path) -> Iterator[str]:
    """Paths that an import may mean, without suffixes, relative to the document's root."""
    if origin := match["origin"]:
        dots = len(origin) - len(origin.lstrip("."))
        base = folder if dots else Path()
        for _ in range(dots - 1):
            base = base.parent
        module = base.joinpath(*origin.lstrip(".").split(".")) if origin.strip(".") else base
        names = [name.strip().split(" ")[0] for name in (match["names"] or "").split(",")]
        inner = [(module / name).as_posix() for name in names if name]
        yield from (stem for path in [*inner, module.as_posix()] for stem in (path, f"src/{path}"))
    elif modules := match["module"]:
        for module_name in modules.split(","):
            path = module_name.strip().replace(".", "/")
            yield from (path, f"src/{path}")
    elif header := match["header"]:
        yield from ((folder / header).as_posix(), header, f"include/{header}", f"src/{header}")
    elif relative := match["path"] or match["required"]:
        parts: list[str] = []
        for part in (folder / relative).parts:
            if part == "..":
                parts = parts[:-1]
            elif part != ".":
                parts.append(part)
        yield "/".join(parts)
    elif mod := match["mod"]:
        yield from ((folder / mod).as_posix(), f"{folder.as_posix()}/{mod}".removeprefix("./"))


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
