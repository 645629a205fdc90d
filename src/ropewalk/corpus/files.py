"""Bytes out of files: which files a path means, and their lines with number and offset.

An archive that ends early is an error, never a short corpus: zstd readers stop at a torn frame without a word, so the
end of the last frame is checked here.
"""

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import zstandard

from ropewalk.core.error import UserError

LINES = (".jsonl", ".jsonl.zst", ".jsonl.gz")
RECORDS = (*LINES, ".json")
TEXTS = (".txt", ".md", ".markdown", ".rst")
# fmt: off
CODE = (
    ".py", ".pyi", ".c", ".h", ".cc", ".cpp", ".hpp", ".cu", ".rs", ".go", ".java", ".kt", ".scala", ".js", ".jsx",
    ".ts", ".tsx", ".rb", ".php", ".pl", ".lua", ".r", ".jl", ".m", ".swift", ".cs", ".fs", ".hs", ".ml", ".ex", ".erl",
    ".clj", ".lisp", ".el", ".sh", ".sql", ".proto", ".f90", ".zig", ".nim", ".dart", ".vue", ".toml", ".cmake", ".mk",
)
# fmt: on
_PASSED_OVER = {"node_modules", "__pycache__", "vendor"}
_CHUNK_BYTES = 1 << 20


class Line(NamedTuple):
    """A line without its break, its number from 1, and the offset of its first byte in the decompressed file."""

    number: int
    offset: int
    content: bytes


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


def read_lines(path: Path) -> Iterator[Line]:
    """The lines of a file, decompressed by its ending. Raises UserError where the archive is torn."""
    number, offset = 1, 0
    pending: list[bytes] = []  # a line can be a book: its chunks are joined once
    for chunk in _read_chunks(path):
        parts = chunk.split(b"\n")
        for part in parts[:-1]:
            content = b"".join((*pending, part))
            pending = []
            yield Line(number, offset, content)
            number, offset = number + 1, offset + len(content) + 1
        pending.append(parts[-1])
    if content := b"".join(pending):
        yield Line(number, offset, content)


def content_bytes(path: Path) -> int:
    """How large a file is once decompressed: exact where its header says so, else guessed at 4 : 1."""
    size = path.stat().st_size
    if path.suffix == ".zst":
        with path.open("rb") as file:
            head = file.read(18)
        try:
            stated = int(zstandard.frame_content_size(head))
        except zstandard.ZstdError:
            return size  # reading it will say what is wrong
        return stated if stated > 0 else 4 * size
    return 4 * size if path.suffix == ".gz" else size


def _is_passed_over(file: Path, root: Path) -> bool:
    return any(part.startswith(".") or part in _PASSED_OVER for part in file.relative_to(root).parts)


def _read_chunks(path: Path) -> Iterator[bytes]:
    if path.suffix == ".zst":
        yield from _read_zst(path)
    elif path.suffix == ".gz":
        yield from _read_gz(path)
    else:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                yield chunk


def _read_zst(path: Path) -> Iterator[bytes]:
    frame = zstandard.ZstdDecompressor().decompressobj()
    done, begun = 0, False
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            while chunk:
                if frame.eof:
                    frame = zstandard.ZstdDecompressor().decompressobj()
                try:
                    text = frame.decompress(chunk)
                except zstandard.ZstdError as error:
                    raise _torn(path, done, str(error)) from None
                begun = True
                done += len(text)
                yield text
                chunk = frame.unused_data if frame.eof else b""
    if begun and not frame.eof:
        raise _torn(path, done, "the last zstd frame has no end")


def _read_gz(path: Path) -> Iterator[bytes]:
    done = 0
    with gzip.open(path, "rb") as file:
        while True:
            try:
                chunk = file.read(_CHUNK_BYTES)
            except (EOFError, gzip.BadGzipFile, zlib.error) as error:
                raise _torn(path, done, str(error)) from None
            if not chunk:
                return
            done += len(chunk)
            yield chunk


def _torn(path: Path, done: int, why: str) -> UserError:
    return UserError(
        "an archive is torn",
        where=f"{path}, after byte {done:,} of its content",
        why=why,
        fix="copy or download the file again; nothing of it was used",
    )
