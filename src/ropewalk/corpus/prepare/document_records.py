"""The records of a source's stored documents, read from disk in order or one by one.

A corpus may have a hundred million documents, so no list of their records is made. A column has the offset of each
record's line.
"""

from array import array
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from ropewalk.core.read_json import read_written_line, read_written_lines
from ropewalk.corpus.dedup.external_sort import Column
from ropewalk.corpus.text.reject import is_stored


class DocumentRecords:
    """The lines of ``documents.jsonl`` in ``folder`` that belong to stored documents.

    ``offsets`` is a file for the offsets of the ``documents`` lines.
    """

    def __init__(self, folder: Path, documents: int, offsets: Path) -> None:
        self._path, self._documents, self._scratch = folder / "documents.jsonl", documents, offsets
        self._offsets: Column | None = None

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The record of each stored document, in order."""
        records: Iterator[dict[str, Any]] = read_written_lines(self._path, appended=False)
        return (record for record in records if "dropped" not in record)

    def read_some(self, chosen: Bool[np.ndarray, "documents"]) -> Iterator[tuple[int, dict[str, Any]]]:
        """The number and the record of each ``chosen`` document, in order. The lines of others are not parsed."""
        numbers = count()
        records: Iterator[dict[str, Any]] = read_written_lines(
            self._path, appended=False, wanted=lambda line: is_stored(line) and bool(chosen[next(numbers)])
        )
        return zip(np.flatnonzero(chosen).tolist(), records, strict=True)

    def __len__(self) -> int:
        return self._documents

    def read(self, document: int) -> dict[str, Any]:
        """The record of one stored document."""
        if self._offsets is None:
            self._offsets = self._find_offsets()
        (offset,) = self._offsets.read(document, document + 1).tolist()
        record: dict[str, Any] = read_written_line(self._path, offset)
        return record

    def _find_offsets(self) -> Column:
        offsets, found, at, first = Column(self._scratch, self._documents), array("q"), 0, 0
        with self._path.open("rb") as file:
            for line in file:
                if is_stored(line):
                    found.append(at)
                at += len(line)
                if len(found) >= _BATCH:
                    offsets.write(first, np.array(found))
                    first, found = first + len(found), array("q")
        offsets.write(first, np.array(found, dtype=np.int64))
        assert first + len(found) == self._documents
        return offsets


_BATCH = 1 << 16
