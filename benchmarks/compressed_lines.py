"""The records of a compressed file of JSON lines, in the order of the file, for programs that take their own text."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import zstandard


def read_records(path: Path) -> Iterator[dict[str, Any]]:
    """Each line of a .jsonl.zst file."""
    with path.open("rb") as raw:
        yield from map(json.loads, io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(raw), encoding="utf-8"))
