"""Numbers of many documents in files, where memory cannot hold one number of each document.

A column has one number for each document. A spool has records in files by the highest bits of their first field, so
that one file at a time is sorted in memory. The size of a piece in memory does not grow with the number of documents.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int64, Shaped, UInt64

from ropewalk.core.artifact import hold

_FILE_RECORDS = 1 << 16
_MOST_FILES = 1024
_CHUNK_DOCUMENTS = 1 << 15
_FILL_BYTES = 1 << 20
_PAIR = np.dtype([("number", "<u8"), ("rank", "<u8"), ("place", "<i8")])


@contextmanager
def own_scratch(folder: Path) -> Iterator[Path]:
    """A folder for one process at a time. It is empty at begin and end, even if another process was killed in it."""
    scratch = folder / "scratch"
    with hold(folder, waits=True):
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        try:
            yield scratch
        finally:
            shutil.rmtree(scratch)


class Column:
    """One number for each document, in a file. Pieces are read and written; the whole is never in memory."""

    def __init__(self, path: Path, length: int, dtype: type = np.int64, *, filled: bool = False) -> None:
        """``filled`` writes zeros: for a column that is set through ``open`` before all of it was written. Where such a
        page finds no room on a full disk, the process is killed by a signal, without a word; a write is an error."""
        self._path, self._dtype = path, np.dtype(dtype)
        self.length = length
        size = max(1, length) * self._dtype.itemsize
        with path.open("wb") as file:
            for start in range(0, size if filled else 0, _FILL_BYTES):
                file.write(bytes(min(_FILL_BYTES, size - start)))
            file.truncate(size)

    def read(self, first: int, last: int) -> Shaped[np.ndarray, "documents"]:
        """The numbers of the documents from ``first`` to before ``last``."""
        size = self._dtype.itemsize
        return np.fromfile(self._path, dtype=self._dtype, count=last - first, offset=first * size)

    def write(self, first: int, values: Shaped[np.ndarray, "documents"]) -> None:
        """Set the numbers of the documents from ``first`` on."""
        with self._path.open("r+b") as file:
            file.seek(first * self._dtype.itemsize)
            file.write(values.astype(self._dtype).tobytes())

    def take(self, documents: Int64[np.ndarray, "some"]) -> Shaped[np.ndarray, "some"]:
        """The numbers of some documents anywhere. A map of the file would hold every page that they touch."""
        wanted, place = np.unique(documents, return_inverse=True)
        size = self._dtype.itemsize
        with self._path.open("rb") as file:
            handle = file.fileno()
            read = b"".join([os.pread(handle, size, size * document) for document in wanted.tolist()])
        return np.frombuffer(read, dtype=self._dtype)[place]

    def put(self, documents: Int64[np.ndarray, "some"], values: Shaped[np.ndarray, "some"]) -> None:
        """Set the numbers of some documents anywhere."""
        size = self._dtype.itemsize
        data = memoryview(values.astype(self._dtype).tobytes())
        with self._path.open("r+b") as file:
            handle = file.fileno()
            for at, document in enumerate(documents.tolist()):
                os.pwrite(handle, data[size * at : size * (at + 1)], size * document)

    def open(self) -> Shaped[np.ndarray, "documents"]:
        """All numbers as an array that is mapped from the file. What was touched of it is freed with the array."""
        mapped = np.memmap(self._path, dtype=self._dtype, mode="r+", shape=(max(1, self.length),))
        return np.asarray(mapped)[: self.length]

    def chunks(self) -> Iterator[tuple[int, int]]:
        """The first and the last document (not included) of pieces that memory can hold."""
        return chunks(0, self.length)


def chunks(first: int, last: int) -> Iterator[tuple[int, int]]:
    """The first document of each piece of ``first`` to ``last``, and the one after its last document."""
    for start in range(first, last, _CHUNK_DOCUMENTS):
        yield start, min(last, start + _CHUNK_DOCUMENTS)


def follow(column: Column) -> None:
    """Let each document of a column of documents point to the end of its chain."""
    for first, last in column.chunks():
        values = column.read(first, last)
        where = np.flatnonzero(values != np.arange(first, last))
        while len(where):
            found = column.take(values[where])
            where, found = where[differs := found != values[where]], found[differs]
            values[where] = found
        column.write(first, values)


class Spool:
    """Records in files by the highest bits of their first field, ``number``. ``expected`` is about how many."""

    def __init__(self, folder: Path, dtype: "np.dtype[np.void]", expected: int) -> None:
        folder.mkdir()
        self._folder, self._dtype = folder, dtype
        self._bits = (max(1, min(_MOST_FILES, -(-expected // _FILE_RECORDS))) - 1).bit_length()

    def add(self, records: Shaped[np.ndarray, "records"]) -> None:
        """Append records to their files."""
        if not self._bits:
            self._append(0, records)
            return
        name = (records["number"] >> np.uint64(64 - self._bits)).astype(np.int64)
        order = np.argsort(name, kind="stable")
        borders = np.searchsorted(name[order], np.arange((1 << self._bits) + 1))
        for number, (first, end) in enumerate(pairwise(borders.tolist())):
            if end > first:
                self._append(number, records[order[first:end]])

    def _append(self, number: int, records: Shaped[np.ndarray, "records"]) -> None:
        with (self._folder / str(number)).open("ab") as file:
            file.write(records.tobytes())

    def drain(self) -> Iterator[Shaped[np.ndarray, "records"]]:
        """Yield the records of each file in the order in which they were added, file by file, and remove the files."""
        for number in range(1 << self._bits):
            path = self._folder / str(number)
            if path.exists():
                yield np.fromfile(path, dtype=self._dtype)
                path.unlink()


class PairSpool:
    """Finds which numbers of ranked documents occurred before: in a document of lower rank, or in the same document.

    ``pairs`` is how many numbers there are in all. A number's place is its index among them.
    """

    def __init__(self, folder: Path, pairs: int) -> None:
        self._spool, self._marks = Spool(folder, _PAIR, pairs), Column(folder / "marks", pairs, np.bool_, filled=True)

    def add(
        self,
        numbers: UInt64[np.ndarray, "pairs"],
        *,
        rank: UInt64[np.ndarray, "pairs"],
        place: Int64[np.ndarray, "pairs"],
    ) -> None:
        """Add numbers, with the ranks of their documents. Of equal ranks the document with the lower place is first."""
        records = np.empty(len(numbers), dtype=_PAIR)
        records["number"], records["rank"], records["place"] = numbers, rank, place
        self._spool.add(records)

    def find_repeated(self) -> Column:
        """For each place, whether its number occurred before."""
        for records in self._spool.drain():
            order = np.lexsort((records["place"], records["rank"], records["number"]))
            number = records["number"][order]
            found: Int64[np.ndarray, found] = records["place"][order[1:][number[1:] == number[:-1]]]
            self._marks.open()[found] = True
        return self._marks


def any_of_each(
    marks: Bool[np.ndarray, "pairs"], counts: Int64[np.ndarray, "documents"]
) -> Bool[np.ndarray, "documents"]:
    """For each document, whether one of its marks is set. ``counts``: the number of marks of each document."""
    sums = np.concatenate([[0], np.cumsum(marks)])
    ends = np.cumsum(counts)
    return np.asarray(sums[ends] > sums[ends - counts])
