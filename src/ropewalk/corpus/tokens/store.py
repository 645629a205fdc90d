"""Token ids as flat files that are memory-mapped and never read as a whole.

``shard-00000.tok`` holds ids (uint16 if the vocabulary fits, else uint32, little-endian). ``.idx`` holds the ends of
its documents as uint64. ``.mask`` holds one byte a token and exists only where some token is not trained on. datatrove
and nanotron read the first two files too. A document is never split over two shards.
"""

import mmap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64, Integer, Shaped, UInt8, UInt16, UInt32

from ropewalk.core.record import Shard

SHARD_TOKENS = 1 << 28
_ENDS = np.dtype("<u8")


def token_dtype(vocabulary: int) -> np.dtype[Any]:
    """The smallest stored type that holds every id below ``vocabulary``."""
    return np.dtype("<u2" if vocabulary <= 1 << 16 else "<u4")


def write_shards(
    documents: Iterable[tuple[Integer[np.ndarray, "_"], UInt8[np.ndarray, "_"]]],
    folder: Path,
    *,
    vocabulary: int,
    shard_tokens: int = SHARD_TOKENS,
) -> list[dict[str, int]]:
    """Write ``(tokens, mask)`` of each document in order; return ``{documents, tokens}`` of each shard.

    A shard is closed at the first document that brings it to ``shard_tokens``.
    """
    written: list[dict[str, int]] = []
    stream = iter(documents)
    pending = next(stream, None)
    while pending is not None:
        stem, ends, tokens, masked = folder / f"shard-{len(written):05d}", [], 0, False
        with stem.with_suffix(".tok").open("wb") as ids_file, stem.with_suffix(".mask").open("wb") as mask_file:
            while pending is not None and tokens < shard_tokens:
                ids, mask = pending
                assert len(ids) == len(mask) and (len(ids) == 0 or 0 <= ids.min() <= ids.max() < vocabulary)
                ids_file.write(ids.astype(token_dtype(vocabulary)).tobytes())
                mask_file.write(mask.tobytes())
                masked |= not mask.all()
                tokens += len(ids)
                ends.append(tokens)
                pending = next(stream, None)
        stem.with_suffix(".idx").write_bytes(np.array(ends, dtype=_ENDS).tobytes())
        if not masked:
            stem.with_suffix(".mask").unlink()
        written.append({"documents": len(ends), "tokens": tokens})
    return written


def join_shards(parts: Iterable[Shard], folder: Path, *, vocabulary: int, shard_tokens: int = SHARD_TOKENS) -> None:
    """Write the documents of ``parts`` in order, at disk speed. The files equal those that ``write_shards`` writes."""
    pieces = ((part, 0) for part in parts)
    number, pending = 0, next(pieces, None)
    while pending is not None:
        stem, ends, tokens, masked = folder / f"shard-{number:05d}", [np.empty(0, dtype=_ENDS)], 0, False
        with stem.with_suffix(".tok").open("wb") as ids_file, stem.with_suffix(".mask").open("wb") as mask_file:
            while pending is not None and tokens < shard_tokens:
                shard, first = pending
                begin = int(shard.ends[first - 1]) if first else 0
                # All documents that begin before the shard is full.
                last = int(np.searchsorted(shard.ends, begin + shard_tokens - tokens, side="left")) + 1
                last = min(last, len(shard.ends))
                end = int(shard.ends[last - 1])
                ids_file.write(shard.tokens[begin:end].astype(token_dtype(vocabulary), copy=False).data)
                mask_file.write(np.ascontiguousarray(shard.mask[begin:end]).data)
                masked |= not shard.mask[begin:end].all()
                ends.append((shard.ends[first:last] - np.uint64(begin) + np.uint64(tokens)).astype(_ENDS))
                tokens += end - begin
                pending = (shard, last) if last < len(shard.ends) else next(pieces, None)
        stem.with_suffix(".idx").write_bytes(np.concatenate(ends).tobytes())
        if not masked:
            stem.with_suffix(".mask").unlink()
        number += 1


def open_shards(folder: Path, *, vocabulary: int, manifest: Mapping[str, Any], scattered: bool = False) -> list[Shard]:
    """Map the shards of ``folder``. Each shard carries ``manifest``, the facts of its source.

    ``scattered`` says that tokens are read document by document in any order. Then the system reads only what is asked
    for: by default it may read megabytes ahead of each document, at a thousandth of a second each.
    """
    return [_open_shard(path, vocabulary, manifest, scattered) for path in sorted(folder.glob("shard-*.tok"))]


def _open_shard(path: Path, vocabulary: int, manifest: Mapping[str, Any], scattered: bool) -> Shard:
    tokens = _map(path, token_dtype(vocabulary), scattered=scattered)
    mask_path = path.with_suffix(".mask")
    mask = _map(mask_path, np.dtype("u1")) if mask_path.exists() else np.broadcast_to(np.uint8(1), tokens.shape)
    shard = Shard(tokens=tokens, ends=_map(path.with_suffix(".idx"), _ENDS), mask=mask, manifest=manifest)
    assert len(tokens) == len(mask) == int(shard.ends[-1]), f"{path}: tokens, mask and ends disagree"
    return shard


def _map(path: Path, dtype: np.dtype[Any], *, scattered: bool = False) -> Shaped[np.ndarray, "..."]:
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if scattered and hasattr(mmap, "MADV_RANDOM"):  # not on every system
        mapped.madvise(mmap.MADV_RANDOM)
    return np.frombuffer(mapped, dtype=dtype)


def _read_ahead(tokens: Shaped[np.ndarray, "..."], begin: int, end: int) -> None:
    """Let the system read a range of a map at once, and not page by page as it is used."""
    size = (end - begin) * tokens.itemsize
    if size <= mmap.PAGESIZE or not hasattr(mmap, "MADV_WILLNEED"):
        return
    if (mapped := find_map(tokens)) is not None:
        first = begin * tokens.itemsize // mmap.PAGESIZE * mmap.PAGESIZE
        mapped.madvise(mmap.MADV_WILLNEED, first, min(len(mapped) - first, size + mmap.PAGESIZE))


def find_map(array: Shaped[np.ndarray, "..."]) -> mmap.mmap | None:
    """The map whose bytes an array shows; None for an array in memory."""
    held: Any = array
    while isinstance(held, np.ndarray | memoryview):
        held = held.base if isinstance(held, np.ndarray) else held.obj
    return held if isinstance(held, mmap.mmap) else None


@dataclass(frozen=True)
class StoredDocuments:
    """Some documents of a source's shards, by their number over all shards."""

    shards: tuple[Shard, ...]
    chosen: Int64[np.ndarray, "documents"]

    def __len__(self) -> int:
        return len(self.chosen)

    @cached_property
    def _first(self) -> Int64[np.ndarray, "shards"]:
        """Number of each shard's first document."""
        return np.cumsum([0, *(len(shard.ends) for shard in self.shards)])[:-1].astype(np.int64)

    @cached_property
    def lengths(self) -> Int64[np.ndarray, "documents"]:
        """Length of each document in tokens."""
        ends = [np.diff(shard.ends.astype(np.int64), prepend=0) for shard in self.shards]
        return np.concatenate([np.empty(0, dtype=np.int64), *ends]).take(self.chosen)

    def take(self, documents: Int64[np.ndarray, "_"]) -> "StoredDocuments":
        """Some of these documents."""
        return StoredDocuments(self.shards, self.chosen[documents])

    def origin(self, document: int, start: int, tokens: int) -> list[dict[str, int]]:
        """Where the tokens of a segment are from: documents as numbered in the source's store."""
        return [{"document": int(self.chosen[document]), "start": start, "tokens": tokens}]

    @property
    def tokens(self) -> int:
        return int(self.lengths.sum())

    @cached_property
    def labels(self) -> Int64[np.ndarray, "documents"]:
        """Number of labels of each document: trained tokens that have a token before them. Reads every mask once."""
        counts = [np.empty(0, dtype=np.int64)]
        for shard in self.shards:
            starts = np.concatenate([np.zeros(1, dtype=np.int64), shard.ends[:-1].astype(np.int64)])
            counts.append(np.add.reduceat(shard.mask, starts, dtype=np.int64) - shard.mask[starts])
        return np.concatenate(counts).take(self.chosen)

    @property
    def is_masked(self) -> bool:
        """Whether a mask file exists. Without one, a shard's mask is a single 1, broadcast with stride 0."""
        return any(shard.mask.strides != (0,) for shard in self.shards)

    def read(
        self, document: int, start: int = 0, stop: int | None = None
    ) -> tuple[UInt16[np.ndarray, "tokens"] | UInt32[np.ndarray, "tokens"], UInt8[np.ndarray, "tokens"]]:
        """Tokens ``[start, stop)`` of one document and their mask, as views of the mapped files."""
        number = int(self.chosen[document])
        index = int(np.searchsorted(self._first, number, side="right")) - 1
        shard, local = self.shards[index], number - int(self._first[index])
        begin = int(shard.ends[local - 1]) if local else 0
        end = int(shard.ends[local]) if stop is None else begin + stop
        assert begin + start <= end <= int(shard.ends[local]), f"document {document} has no tokens {start}:{stop}"
        _read_ahead(shard.tokens, begin + start, end)
        return shard.tokens[begin + start : end], shard.mask[begin + start : end]

    def read_pieces(
        self, pieces: Int64[np.ndarray, "pieces 3"]
    ) -> list[tuple[UInt16[np.ndarray, "_"] | UInt32[np.ndarray, "_"], UInt8[np.ndarray, "_"]]]:
        """``read(document, start, stop)`` of each row of ``pieces``, in one pass: a document can have thousands."""
        numbers = self.chosen[pieces[:, 0]]
        index = np.searchsorted(self._first, numbers, side="right") - 1
        spans = pieces[:, 1:].copy()
        for number in np.unique(index).tolist():
            ends, where = self.shards[number].ends, np.flatnonzero(index == number)
            local = numbers[where] - self._first[number]
            begin = np.where(local > 0, ends[np.maximum(local, 1) - 1].astype(np.int64), 0)
            assert (spans[where, 0] <= spans[where, 1]).all() and (begin + spans[where, 1] <= ends[local]).all()
            spans[where] += begin[:, None]
        found = []
        for at, (begin, end) in zip(index.tolist(), spans.tolist(), strict=True):
            shard = self.shards[at]
            _read_ahead(shard.tokens, begin, end)
            found.append((shard.tokens[begin:end], shard.mask[begin:end]))
        return found

    def __iter__(self) -> Iterator[Shaped[np.ndarray, "_"]]:
        return (self.read(document)[0] for document in range(len(self)))


def all_documents(shards: Iterable[Shard]) -> StoredDocuments:
    """Every document of ``shards``."""
    held = tuple(shards)
    return StoredDocuments(held, np.arange(sum(len(shard.ends) for shard in held), dtype=np.int64))
