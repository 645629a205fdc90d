"""The one table of suffixes: it gives the kind of a file, or the reason why a file is not read.

A suffix of compression (``.zst``, ``.gz`` ...) may follow the other suffix. find_files.py finds the files of a path.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from ropewalk.corpus.read.archive import PACKED, TornArchiveError, read_chunks
from ropewalk.corpus.text.reject import spell_name

Kind = Literal["lines", "json", "csv", "tsv", "parquet", "tar", "zip", "warc", "text", "page", "pdf", "tokens", "saved"]
"""How a file is read. ``tokens`` and ``saved`` come from the source and do not depend on the suffix."""
RECORDS = frozenset[Kind](["lines", "json", "csv", "tsv", "parquet", "tar", "zip", "warc"])
_KINDS = MappingProxyType[str, Kind](
    {
        **dict.fromkeys((".jsonl", ".ndjson", ".jl"), "lines"),
        ".json": "json",
        ".csv": "csv",
        ".tsv": "tsv",
        ".parquet": "parquet",
        **dict.fromkeys((".tar", ".tgz"), "tar"),
        ".zip": "zip",
        **dict.fromkeys((".warc", ".wet"), "warc"),
        **dict.fromkeys((".txt", ".text", ".md", ".markdown", ".rst"), "text"),
        **dict.fromkeys((".html", ".htm", ".xhtml"), "page"),
        ".pdf": "pdf",
    }
)
_NEVER_PACKED = frozenset[Kind](["parquet", "zip", "pdf"])
# fmt: off
CODE = (
    ".py", ".pyi", ".c", ".h", ".cc", ".cpp", ".hpp", ".cu", ".rs", ".go", ".java", ".kt", ".scala", ".js", ".jsx",
    ".ts", ".tsx", ".rb", ".php", ".pl", ".lua", ".r", ".jl", ".m", ".swift", ".cs", ".fs", ".hs", ".ml", ".ex", ".erl",
    ".clj", ".lisp", ".el", ".sh", ".sql", ".proto", ".f90", ".zig", ".nim", ".dart", ".vue", ".toml", ".cmake", ".mk",
)
_UNREAD = MappingProxyType(
    {
        **dict.fromkeys((".wat", ".arc"), "a web archive without text: give the .warc or .wet files of the same crawl"),
        **dict.fromkeys((".tbz2", ".txz", ".7z", ".rar"),
                        "an archive of files: unpack it into a folder and give that folder, or pack it as .tar.zst"),
        **dict.fromkeys((".lz4", ".br", ".snappy", ".lzo", ".lzma", ".z"),
                        "compressed in a format that is not supported: unpack it, or compress it as .zst"),
        ".arrow": "an Arrow file: give the folder that `save_to_disk` wrote, or write it as .parquet",
        **dict.fromkeys((".epub", ".mobi", ".docx", ".doc", ".odt", ".rtf", ".tex"),
                        "a book or office format: convert it to .txt, .md or .html"),
        **dict.fromkeys((".xlsx", ".xls", ".ods"), "a spreadsheet: save it as .csv"),
        **dict.fromkeys((".avro", ".orc"), "a table format that is not supported: write it as .parquet or .jsonl"),
    }
)
# fmt: on
_NUMBER = re.compile(r"[0-9]+")
_SNIFFED_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class File:
    """A file of a source. ``name`` is its path inside the source; it stays the same when the source is moved."""

    path: Path
    name: str
    kind: Kind
    shown: str = ""
    """What messages call the file, where this is not its path: its address, or its place in an archive."""
    remote_bytes: int = -1
    """The size of a file that lies on the network, 0 where its store does not say; -1 for one on this machine."""

    @property
    def is_remote(self) -> bool:
        """Whether the file lies on the network, and must be copied before it is read."""
        return self.remote_bytes >= 0

    @property
    def is_record(self) -> bool:
        """Whether the file holds records, which are read one by one, and not one text."""
        return self.kind in RECORDS


def suffix_of(path: Path) -> str:
    """The suffix of a file, with its compression suffix: ``.jsonl.zst``. It is empty where the file has none.

    A number is written as ``.0``, so that all parts of one output have the same suffix.
    """
    name = spell_name(path.name).lower()
    packed = next((ending for ending in PACKED if name.endswith(ending)), "")
    inner = Path(name.removesuffix(packed)).suffix
    return _NUMBER.sub("0", inner) + packed if inner[1:].isdigit() else inner + packed


def kind_of(path: Path, *, code: bool) -> Kind | None:
    """How a file is read, by its suffix; None where it is not read. With ``code``, programs are read as text, and data
    is not."""
    suffix = suffix_of(path)
    inner = next((suffix.removesuffix(ending) for ending in PACKED if suffix.endswith(ending)), suffix)
    if code and suffix in CODE:
        return "text"
    kind = _KINDS.get(inner)
    return None if kind in _NEVER_PACKED and inner != suffix else kind


def sniff_kind(path: Path) -> Kind | None:
    """``lines`` for a file without a suffix that begins with a JSON record, such as Spark's ``part-00000``."""
    try:
        head = next(read_chunks(path), b"")[:_SNIFFED_BYTES].removeprefix(b"\xef\xbb\xbf").lstrip()
    except TornArchiveError:
        return None
    first, newline, _ = head.partition(b"\n")
    if not first.startswith(b"{"):
        return None
    try:
        return "lines" if not newline or isinstance(json.loads(first), dict) else None
    except (ValueError, RecursionError):
        return None


def why_unread(path: Path, *, code: bool) -> str:
    """Why a file of a source is not read, and how it can be read."""
    suffix = suffix_of(path)
    if not suffix or suffix in PACKED:
        return "no suffix, and it does not begin with a JSON record: add the suffix .txt if it is text"
    for ending in ("", *PACKED):
        inner = suffix.removesuffix(ending) if ending and suffix.endswith(ending) else suffix
        if inner in _UNREAD:
            return _UNREAD[inner]
    if code:
        return "data or text in a code tree: only programs are read there"
    if suffix in CODE:
        return "a program: programs are read with profile: code"
    if suffix.startswith((".parquet.", ".zip.", ".pdf.")):
        return "compressed: unpack it"
    return "an unknown kind of text: give it the suffix of its content, such as .txt, .jsonl or .csv"
