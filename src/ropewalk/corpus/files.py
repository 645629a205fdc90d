"""Which files a path means, and what kind each is."""

from pathlib import Path

from ropewalk.core.error import UserError
from ropewalk.corpus.archive import PACKED


def _with_packed(*endings: str) -> tuple[str, ...]:
    return tuple(ending + packed for ending in endings for packed in ("", *PACKED))


LINES = _with_packed(".jsonl")
RECORDS = (*LINES, *_with_packed(".json"), ".parquet")
TEXTS = _with_packed(".txt", ".md", ".markdown", ".rst")
PAGES = (".html", ".htm", ".xhtml", ".pdf")
# fmt: off
CODE = (
    ".py", ".pyi", ".c", ".h", ".cc", ".cpp", ".hpp", ".cu", ".rs", ".go", ".java", ".kt", ".scala", ".js", ".jsx",
    ".ts", ".tsx", ".rb", ".php", ".pl", ".lua", ".r", ".jl", ".m", ".swift", ".cs", ".fs", ".hs", ".ml", ".ex", ".erl",
    ".clj", ".lisp", ".el", ".sh", ".sql", ".proto", ".f90", ".zig", ".nim", ".dart", ".vue", ".toml", ".cmake", ".mk",
)
# fmt: on
DATASET_MARKS = ("dataset_dict.json", "state.json")
_PASSED_OVER = {"node_modules", "__pycache__", "vendor"}


def find_files(path: str, *, endings: tuple[str, ...], where: str) -> list[Path]:
    """The files that a path, folder or glob means, sorted; a folder's are those with one of ``endings``."""
    named = Path(path)
    if named.is_file():
        return [named]
    if named.is_dir():
        files = [file for file in named.rglob("*") if file.is_file() and not _is_passed_over(file, named)]
        found = sorted(file for file in files if file.name.lower().endswith(endings))
        why = f"none of its {len(files)} files ends in {', '.join(endings)}"
    else:
        root = Path(named.anchor) if named.is_absolute() else Path()
        pattern = str(named.relative_to(named.anchor) if named.is_absolute() else named)
        found = sorted(file for file in root.glob(pattern) if file.is_file())
        why = f"no such file or folder, seen from {Path.cwd()}"
    if not found:
        raise UserError("a source has no files", where=f"{where}: {path}", why=why, fix="correct the path")
    return found


def is_saved_dataset(path: str) -> bool:
    """Whether ``path`` is a folder that `datasets` saved to disk."""
    return any((Path(path) / mark).is_file() for mark in DATASET_MARKS)


def _is_passed_over(file: Path, root: Path) -> bool:
    return any(part.startswith(".") or part in _PASSED_OVER for part in file.relative_to(root).parts)
