"""Groups the equal and the similar documents of many shards on disk, and finds the one of each group that stays.

The groups are those of ``group_similar``, document by document: the keys of each band are sorted in files instead of in
memory, and candidates are compared in the same order. Only the signatures that decide are read. Memory holds a piece of
each column, so it does not grow with the number of documents; the files hold about 370 bytes a document meanwhile.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import numpy as np
from jaxtyping import Int64, Shaped, UInt32, UInt64

from ropewalk.core.record import Role
from ropewalk.corpus.dedup.clusters import rank_sizes
from ropewalk.corpus.dedup.external_sort import Column, Spool, follow
from ropewalk.corpus.dedup.minhash import SIGNATURE, band_keys, count_band_rows, find_candidates, join_candidates

_KEYED = np.dtype([("number", "<u8"), ("document", "<i8")])
_OPEN_FILES = 64
_BATCH_DOCUMENTS = 1 << 13


class Copies:
    """The documents of ``shards``, in order, as groups of copies. A shard has a role and a folder with the columns
    ``digests``, ``signatures`` and ``whole_bytes``. ``scratch`` is an empty folder that can be removed afterwards."""

    def __init__(self, shards: Sequence[tuple[Role, Path]], scratch: Path) -> None:
        self._shards, self.scratch = shards, scratch
        lengths = [len(_map(folder, "whole_bytes")) for _, folder in shards]
        self.borders = np.cumsum([0, *lengths]).tolist()
        """The first document of each shard, and the number of all documents."""
        self.rank = self._column("rank", np.uint64)
        """Of copies the document with the lowest rank stays; of equal ranks the first one."""
        for (first, _), (role, folder) in zip(pairwise(self.borders), shards, strict=True):
            self.rank.write(first, rank_sizes(role, np.array(_map(folder, "whole_bytes"))))
        self.equal = self._group_equal()
        """For each document the first one with the same text."""

    @property
    def documents(self) -> int:
        """The number of all documents."""
        return int(self.borders[-1])

    def group(self, threshold: float) -> Column:
        """For each document the first one of its group of near copies. Equal texts are compared only once."""
        parent = self._column(f"near-{threshold}")
        for first, last in parent.chunks():
            parent.write(first, self.equal.read(first, last))
        for spool in self._spool_bands(threshold):
            with closing(SignatureFiles([folder for _, folder in self._shards], self.borders)) as signatures:
                for records in spool.drain():
                    mapped = parent.open()
                    for members in find_candidates(records["number"]):
                        join_candidates(records["document"][members], mapped, signatures.read, threshold)
                    del mapped
        follow(parent)
        return parent

    def find_best(self, group: Column, name: str) -> Column:
        """For each document the one of its group that stays. ``name`` is that of the new column."""
        best = self._column(f"best-{name}")
        for first, last in best.chunks():
            best.write(first, np.arange(first, last))
        for first, last in best.chunks():
            own = group.read(first, last)
            later = first + np.flatnonzero(own != np.arange(first, last))
            rank, own = self.rank.read(first, last)[later - first], own[later - first]
            order = np.lexsort((later, rank, own))
            order = order[np.concatenate([[True], own[order][1:] != own[order][:-1]])] if len(order) else order
            better = order[rank[order] < self.rank.take(best.take(own[order]))]
            best.put(own[better], later[better])
        chosen = self._column(f"chosen-{name}")
        for first, last in best.chunks():
            own, found = group.read(first, last), best.read(first, last)
            copies = own != np.arange(first, last)
            found[copies] = best.take(own[copies])
            chosen.write(first, found)
        return chosen

    def _column(self, name: str, dtype: type = np.int64) -> Column:
        return Column(self.scratch / name, self.documents, dtype)

    def _group_equal(self) -> Column:
        equal, spool = self._column("equal"), Spool(self.scratch / "digests", _KEYED, self.documents)
        for first, last in equal.chunks():
            equal.write(first, np.arange(first, last))
        for (first, _), (_, folder) in zip(pairwise(self.borders), self._shards, strict=True):
            digests = np.array(_map(folder, "digests"))
            spool.add(_keyed(digests, first + np.arange(len(digests))))
        for records in spool.drain():
            order = np.argsort(records["number"], kind="stable")
            number, document = records["number"][order], records["document"][order]
            starts = np.concatenate([[True], number[1:] != number[:-1]])
            first_of = document[np.flatnonzero(starts)[np.cumsum(starts) - 1]]
            equal.open()[document[~starts]] = first_of[~starts]
        return equal

    def _spool_bands(self, threshold: float) -> list[Spool]:
        rows = count_band_rows(threshold)
        folder = self.scratch / f"bands-{threshold}"
        folder.mkdir()
        spools = [Spool(folder / str(band), _KEYED, self.documents) for band in range(SIGNATURE // rows)]
        for (first, _), (_, shard) in zip(pairwise(self.borders), self._shards, strict=True):
            for start, signatures in _batches(shard):
                here = first + start
                at = np.arange(here, here + len(signatures))
                unlike = self.equal.read(here, here + len(signatures)) == at
                signatures, at = signatures[unlike], at[unlike]
                for spool, keys in zip(spools, band_keys(signatures, rows), strict=True):
                    spool.add(_keyed(keys, at))
        return spools


class SignatureFiles:
    """Signatures of single documents, read from the shards' files. A few files are open at a time."""

    def __init__(self, folders: Sequence[Path], borders: Sequence[int]) -> None:
        self._folders, self._borders = folders, np.array(borders)
        self._open: dict[int, tuple[int, int]] = {}

    def read(self, document: int) -> UInt32[np.ndarray, "128"]:
        """The signature of a document, by its number among the documents of all shards."""
        shard = int(np.searchsorted(self._borders, document, side="right")) - 1
        if shard not in self._open:
            self._open[shard] = self._open_file(shard)
        handle, offset = self._open[shard]
        size = 4 * SIGNATURE
        data = os.pread(handle, size, offset + size * (document - int(self._borders[shard])))
        return np.frombuffer(data, dtype="<u4")

    def _open_file(self, shard: int) -> tuple[int, int]:
        if len(self._open) >= _OPEN_FILES:
            handle, _ = self._open.pop(next(iter(self._open)))
            os.close(handle)
        offset = _map(self._folders[shard], "signatures").offset
        return os.open(self._folders[shard] / "signatures.npy", os.O_RDONLY), offset

    def close(self) -> None:
        """Close the files."""
        for handle, _ in self._open.values():
            os.close(handle)
        self._open.clear()


def _keyed(numbers: UInt64[np.ndarray, "_"], documents: Int64[np.ndarray, "_"]) -> Shaped[np.ndarray, "_"]:
    records = np.empty(len(numbers), dtype=_KEYED)
    records["number"], records["document"] = numbers, documents
    return records


def _map(folder: Path, column: str) -> "np.memmap[tuple[int, ...], np.dtype[np.generic]]":
    mapped: np.memmap[tuple[int, ...], np.dtype[np.generic]]
    mapped = np.load(folder / f"{column}.npy", mmap_mode="r", allow_pickle=False)
    return mapped


def _batches(folder: Path) -> Iterator[tuple[int, UInt32[np.ndarray, "documents 128"]]]:
    """Yield the signatures of a shard in pieces, each with the index of its first document."""
    mapped = _map(folder, "signatures")
    path, begin, length, size = folder / "signatures.npy", mapped.offset, len(mapped), 4 * SIGNATURE
    del mapped  # read and not mapped: the pages of a map would count beside the copy
    for start in range(0, length, _BATCH_DOCUMENTS):
        count = min(_BATCH_DOCUMENTS, length - start)
        numbers = np.fromfile(path, dtype="<u4", count=count * SIGNATURE, offset=begin + size * start)
        yield start, numbers.reshape(-1, SIGNATURE)
        del numbers
