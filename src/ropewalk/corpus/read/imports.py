"""The order of programs in which each file stands after those that it imports.

Files that import each other form a circle. It is broken by one rule: its files stand together, in the order of their
paths, where the circle as a whole belongs. (The circles are Tarjan's strongly connected components.)
"""

import re
from collections.abc import Iterator, Sequence
from heapq import heapify, heappop, heappush
from pathlib import Path
from typing import NamedTuple

from ropewalk.corpus.read.files import CODE

_IMPORTS = re.compile(
    r"^[ \t]*from[ \t]+(?P<origin>[.\w]+)[ \t]+import\b(?P<names>[ \t]*[\w, \t]*)"
    r"|^[ \t]*import[ \t]+(?P<module>[\w.]+(?:[ \t]*,[ \t]*[\w.]+)*)[ \t;]*(?:as\b.*)?$"
    r"|^[ \t]*#[ \t]*include[ \t]*[\"<](?P<header>[^\">]+)[\">]"
    r"|\bfrom[ \t]+[\"'](?P<path>\.[^\"']+)[\"']|\brequire\([\"'](?P<required>\.[^\"']+)[\"']\)"
    r"|^[ \t]*(?:pub[ \t]+)?mod[ \t]+(?P<mod>\w+)[ \t]*;",
    re.MULTILINE,
)
_GO_IMPORTS = re.compile(r"^[ \t]*(?:import[ \t]+)?(?:[\w.]+[ \t]+)?\"(?P<package>[\w.~/-]+)\"[ \t]*$", re.MULTILINE)


class Ordered(NamedTuple):
    """The place of a file among those that it is joined with, and whether it is part of a circle of imports."""

    rank: int
    in_circle: bool


def order_by_imports(files: Sequence[tuple[str, str]]) -> list[Ordered]:
    """The place of each of the ``files``, given as (path, text), in the order of their paths.

    A file that nothing asks for keeps its place by path.
    """
    names = _Names([name for name, _ in files])
    wanted = [sorted(_imports_of(name, text, names) - {number}) for number, (name, text) in enumerate(files)]
    circles = _find_circles(wanted)
    home = {number: circle for circle, members in enumerate(circles) for number in members}
    needs = [{home[need] for number in members for need in wanted[number]} - {c} for c, members in enumerate(circles)]
    needed_by: list[list[int]] = [[] for _ in circles]
    for circle, others in enumerate(needs):
        for other in others:
            needed_by[other].append(circle)
    left = [len(others) for others in needs]
    ready = [(circles[circle][0], circle) for circle, count in enumerate(left) if count == 0]
    heapify(ready)
    placed: dict[int, Ordered] = {}
    while ready:
        _, circle = heappop(ready)
        for number in circles[circle]:
            placed[number] = Ordered(len(placed), len(circles[circle]) > 1)
        for other in needed_by[circle]:
            left[other] -= 1
            if left[other] == 0:
                heappush(ready, (circles[other][0], other))
    return [placed[number] for number in range(len(files))]


def _find_circles(wanted: Sequence[Sequence[int]]) -> list[list[int]]:
    """The strongly connected components of a graph, each sorted (Tarjan's algorithm, without recursion)."""
    order: dict[int, int] = {}
    low: dict[int, int] = {}
    path: list[int] = []
    on_path = [False] * len(wanted)
    found: list[list[int]] = []
    for root in range(len(wanted)):
        stack = [] if root in order else [(root, iter(wanted[root]))]
        while stack:
            at, rest = stack[-1]
            if at not in order:
                order[at] = low[at] = len(order)
                path.append(at)
                on_path[at] = True
            new = next((need for need in rest if need not in order or _lower(low, at, need, order, on_path)), None)
            if new is not None:
                stack.append((new, iter(wanted[new])))
                continue
            stack.pop()
            if stack:
                low[stack[-1][0]] = min(low[stack[-1][0]], low[at])
            if low[at] == order[at]:
                first = path.index(at)
                found.append(sorted(path[first:]))
                for member in path[first:]:
                    on_path[member] = False
                del path[first:]
    return found


def _lower(low: dict[int, int], at: int, need: int, order: dict[int, int], on_path: Sequence[bool]) -> bool:
    """Note an edge to a file that was seen before. Always false: there is nothing to walk into."""
    if on_path[need]:
        low[at] = min(low[at], order[need])
    return False


class _Names:
    """Finds the files that an import may mean."""

    def __init__(self, names: Sequence[str]) -> None:
        self.number = {name: number for number, name in enumerate(names)}
        self._tails: dict[str, list[int]] = {}
        self.folders: dict[str, list[int]] = {}
        for number, name in enumerate(names):
            stem = name.removesuffix(Path(name).suffix)
            self._tails.setdefault("/".join(stem.split("/")[-2:]), []).append(number)
            self.folders.setdefault(Path(name).parent.as_posix(), []).append(number)
        self._names = names

    def find(self, meant: Sequence[str]) -> int | None:
        """The first of some paths without suffixes that is a file; else the only file with such a path below another
        folder, such as src/main/java."""
        for stem in meant:
            ends = [f"{stem}{end}" for end in CODE[:20]]
            for name in (stem, *ends, f"{stem}/__init__.py", f"{stem}/index.js", f"{stem}/index.ts", f"{stem}/mod.rs"):
                if name in self.number:
                    return self.number[name]
        for stem in meant:
            tail = self._tails.get("/".join(stem.split("/")[-2:]), []) if "/" in stem else []
            inside = [number for number in tail if f"/{stem}." in f"/{self._names[number]}"]
            if len(inside) == 1:
                return inside[0]
        return None


def _imports_of(name: str, text: str, names: _Names) -> set[int]:
    if name.endswith(".go"):
        return {number for match in _GO_IMPORTS.finditer(text) for number in _go_package(match["package"], names)}
    meant = (each for match in _IMPORTS.finditer(text) for each in _meant_by(match, Path(name).parent))
    return {number for number in map(names.find, meant) if number is not None}


def _go_package(package: str, names: _Names) -> list[int]:
    """The files of a package, whose path begins with the module's own address."""
    parts = package.split("/")
    tails = ("/".join(parts[at:]) for at in range(len(parts)))
    folder = next((tail for tail in tails if tail in names.folders), "")
    return names.folders.get(folder, [])


def _meant_by(match: re.Match[str], folder: Path) -> Iterator[list[str]]:
    """For each thing that an import names: the paths that it may mean, without suffixes, the likeliest first."""
    if origin := match["origin"]:
        dots = len(origin) - len(origin.lstrip("."))
        base = folder if dots else Path()
        for _ in range(dots - 1):
            base = base.parent
        module = base.joinpath(*origin.lstrip(".").split(".")) if origin.strip(".") else base
        names = [name.strip().split(" ")[0] for name in (match["names"] or "").split(",")]
        for inner in [module / name for name in names if name] or [module]:  # a module of the package, or a name in it
            paths = [inner.as_posix(), module.as_posix()]
            yield [stem for path in paths for stem in (path, f"src/{path}")]
    elif modules := match["module"]:
        for module_name in modules.split(","):
            path = module_name.strip().replace(".", "/")
            yield [path, f"src/{path}"]
    elif header := match["header"]:
        yield [(folder / header).as_posix(), header, f"include/{header}", f"src/{header}"]
    elif relative := match["path"] or match["required"]:
        parts: list[str] = []
        for part in (folder / relative).parts:
            if part == "..":
                parts = parts[:-1]
            elif part != ".":
                parts.append(part)
        yield ["/".join(parts)]
    elif mod := match["mod"]:
        yield [(folder / mod).as_posix(), f"{folder.as_posix()}/{mod}".removeprefix("./")]
