"""Finds which numbers of many documents occurred before, where memory cannot hold all numbers.

Numbers are written to 64 files by their highest bits, each number with its place. The files are sorted one at a time.
The result is one flag per number, mapped from disk.
"""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int64, UInt64

_FILES = 64
_SHIFT = np.uint64(64 - 6)
_BUFFER = 1 << 18
_RECORD = np.dtype([("number", "<u8"), ("place", "<i8")])


class PairSpool:
    """Collects the numbers of documents in order, then finds for each number whether it occurred before."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._buffer: list[UInt64[np.ndarray, _]] = []
        self._buffered = 0
        self._numbers = [0]
        """Ends of the documents among all numbers. The next list holds their ends among all units."""
        self._units = [0]
        self._written = 0

    def add(self, numbers: UInt64[np.ndarray, "pairs"], ends: Int64[np.ndarray, "units"]) -> None:
        """Add the next document: its numbers, and the ends of its units in characters."""
        self._numbers.append(self._numbers[-1] + len(numbers))
        self._units.append(self._units[-1] + len(ends))
        with (self._folder / "ends").open("ab") as file:
            file.write(ends.astype("<i8").tobytes())
        self._buffer.append(numbers)
        self._buffered += len(numbers)
        if self._buffered >= _BUFFER:
            self._flush()

    def find_repeated(
        self, rank: Int64[np.ndarray, "documents"], counts: Bool[np.ndarray, "documents"]
    ) -> Callable[[int], Bool[np.ndarray, "pairs"]]:
        """Return a function that gives, for a document, which of its numbers occurred before.

        A number occurred before if it is in a document of lower rank, or earlier in the same document. Only documents
        with ``counts`` are compared. For any other document the function returns False for all numbers.
        """
        self._flush()
        marks = np.memmap(self._folder / "marks", dtype=bool, mode="w+", shape=max(1, self._written))
        borders = np.array(self._numbers)
        for name in range(_FILES):
            path = self._folder / str(name)
            if not path.exists():
                continue
            records = np.fromfile(path, dtype=_RECORD)
            document = np.searchsorted(borders, records["place"], side="right") - 1
            records, document = records[counts[document]], document[counts[document]]
            order = np.lexsort((records["place"], rank[document], records["number"]))
            number = records["number"][order]
            marks[records["place"][order[1:][number[1:] == number[:-1]]]] = True
        return lambda document: np.asarray(marks[self._numbers[document] : self._numbers[document + 1]])

    def ends(self, document: int) -> Int64[np.ndarray, "units"]:
        """The ends of a document's units, in characters."""
        first, last = self._units[document], self._units[document + 1]
        return np.fromfile(self._folder / "ends", dtype="<i8", count=last - first, offset=8 * first)

    def _flush(self) -> None:
        if not self._buffered:
            return
        records = np.empty(self._buffered, dtype=_RECORD)
        records["number"] = np.concatenate(self._buffer)
        records["place"] = np.arange(self._written, self._written + self._buffered)
        name = (records["number"] >> _SHIFT).astype(np.int64)
        order = np.argsort(name, kind="stable")
        borders = np.searchsorted(name[order], np.arange(_FILES + 1))
        for file_name, (first, end) in enumerate(pairwise(borders.tolist())):
            if end > first:
                with (self._folder / str(file_name)).open("ab") as file:
                    file.write(records[order[first:end]].tobytes())
        self._written += self._buffered
        self._buffer, self._buffered = [], 0
