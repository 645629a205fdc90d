"""Reads files as bytes, decompressed by their suffix, or as lines with number and offset.

An archive that ends early is an error and is never read as a short file. The stock readers of zstd stop at a torn
frame without an error, so this file checks that the last frame has an end. Three faults are reported separately: the
archive is torn, the file is no archive, or the archive needs more memory than is allowed. An archive that becomes more
than 200 times as large is no text, and could fill memory and disk: it is a fault, too.
"""

import bz2
import lzma
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import zstandard

from ropewalk.core.error import UserError

PACKED = (".zst", ".zstd", ".gz", ".bz2", ".xz")
_CHUNK_BYTES = 1 << 20
_GUESSED_RATIO = 4
_STEP_BYTES = 1 << 14
"""Compressed bytes that are decompressed at once: so little memory is taken before an archive is seen to expand."""
_FREE_BYTES, MOST_TIMES = 1 << 26, 200
"""From this size on, text that is more than so many times as large as its archive is refused."""


class Line(NamedTuple):
    """A line without its line break. ``number`` counts from 1; ``offset`` is the position of the line's first byte in
    the decompressed file."""

    number: int
    offset: int
    content: bytes


class TornArchiveError(UserError):
    """An archive can be read only up to byte ``done_bytes`` of its content, which lies in line ``line``.

    ``reason`` is ``torn archive``, ``no archive``, ``archive window`` or ``archive expands``.
    """

    def __init__(self, path: Path, *, done_bytes: int, why: str, line: int = 1, reason: str = "torn archive") -> None:
        what, fix = _REASONS[reason]
        super().__init__(
            what,
            where=f"{path}, line {line}, after byte {done_bytes:,} of its content",
            why=why,
            fix=f"{fix}, or set faults: skip on this source to keep what can be read",
        )
        self.path, self.done_bytes, self.line, self.reason = path, done_bytes, line, reason


_REASONS = MappingProxyType(
    {
        "torn archive": ("an archive is incomplete or damaged", "copy or download the file again"),
        "no archive": ("a file is not the kind of archive that its suffix says", "give it the suffix of its content"),
        "archive window": (
            "an archive needs more memory than is allowed",
            "compress it with a window of at most 2 GiB",
        ),
        "archive expands": ("an archive becomes larger than text can", "leave it out, or unpack it yourself"),
    }
)


def read_lines(path: Path, recode: Callable[[Iterator[bytes]], Iterator[bytes]] | None = None) -> Iterator[Line]:
    """Yield the lines of a file. With ``recode``, yield the lines of the recoded content.

    Raises TornArchiveError after the last whole line of an archive that is torn.
    """
    number, offset = 1, 0
    pending: list[bytes] = []  # a line can be as large as a book, so its chunks are joined only once
    try:
        for chunk in read_chunks(path) if recode is None else recode(read_chunks(path)):
            parts = chunk.split(b"\n")
            for part in parts[:-1]:
                pending.append(part)
                size = sum(map(len, pending))
                yield Line(number, offset, _join(pending))
                number, offset = number + 1, offset + size + 1
            pending.append(parts[-1])
    except TornArchiveError as torn:
        raise TornArchiveError(
            path, done_bytes=torn.done_bytes, why=torn.why, line=number, reason=torn.reason
        ) from None
    if any(pending):
        yield Line(number, offset, _join(pending))


def _join(pending: list[bytes]) -> bytes:
    """Join the chunks and empty ``pending``, so that only the caller holds the line. A line can be as large as a book
    and must not stay in memory while the next one is read."""
    whole = b"".join(pending)
    pending.clear()
    return whole


def read_chunks(path: Path) -> Iterator[bytes]:
    """Yield a file's content, decompressed, in chunks of about a megabyte. Raises TornArchiveError."""
    unpack = _UNPACK.get(path.suffix.lower())
    with path.open("rb") as file:
        packed = iter(lambda: file.read(_CHUNK_BYTES), b"")
        yield from packed if unpack is None else _read_frames(path, packed, unpack)


class ChunkStream:
    """Chunks as a file that can only be read forward: ``done_bytes`` were read, and behind ``filled_bytes`` of them
    there are only zeros."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks, self._held, self._at = chunks, b"", 0
        self.done_bytes, self.filled_bytes = 0, 0

    def read_line(self, most_bytes: int) -> bytes:
        """The next line with its break, cut at ``most_bytes``; empty at the end."""
        while (end := self._held.find(b"\n", self._at)) < 0 and len(self._held) - self._at < most_bytes:
            if (chunk := next(self._chunks, None)) is None:
                break
            self._held, self._at = self._held[self._at :] + chunk, 0
        return self.read(min(most_bytes, (len(self._held) if end < 0 else end + 1) - self._at))

    def read(self, size: int = -1) -> bytes:
        """The next ``size`` bytes, fewer only at the end; all that is left for a negative ``size``."""
        got = len(self._held) - self._at
        if not 0 <= size <= got:
            parts = [self._held[self._at :]]
            while (size < 0 or got < size) and (chunk := next(self._chunks, None)) is not None:
                parts.append(chunk)
                got += len(chunk)
            self._held, self._at = b"".join(parts), 0
        content = self._held[self._at :] if size < 0 else self._held[self._at : self._at + size]
        self._at += len(content)
        if filled := len(content.rstrip(b"\0")):
            self.filled_bytes = self.done_bytes + filled
        self.done_bytes += len(content)
        return content


def content_bytes(path: Path) -> int:
    """The size of a file after decompression, in bytes: exact where the header states it, else guessed at 4 : 1."""
    size = path.stat().st_size
    if path.suffix.lower() in (".zst", ".zstd"):
        with path.open("rb") as file:
            head = file.read(18)
        try:
            stated = int(zstandard.frame_content_size(head))
        except zstandard.ZstdError:
            return size  # the reader reports the fault later
        return stated if stated > 0 else _GUESSED_RATIO * size
    return guess_content_bytes(path, size)


def guess_content_bytes(path: Path, size: int) -> int:
    """The guessed size after decompression of a file of ``size`` bytes, by its suffix."""
    return _GUESSED_RATIO * size if path.suffix.lower() in (*_UNPACK, ".zip") else size


def _read_frames(path: Path, packed: Iterator[bytes], unpack: Callable[[], Any]) -> Iterator[bytes]:
    """Decompress frame after frame, because an archive of any of these formats may have several. Zeros after the last
    frame are padding. No chunk is empty."""
    frame = unpack()
    head, done, taken, begun = b"", 0, 0, False
    texts: list[bytes] = []
    for chunk in _in_steps(packed):
        head, taken = head or chunk, taken + len(chunk)
        rest = chunk
        while rest:
            if frame.eof:
                rest = rest.lstrip(b"\0")
                if not rest:
                    break
                frame = unpack()
            try:
                text = frame.decompress(rest)
            except _TORN as error:
                yield from filter(None, [b"".join(texts)])
                raise _tell(path, head, error, done_bytes=done) from None
            begun = True
            done += len(text)
            texts.append(text)
            rest = frame.unused_data if frame.eof else b""
        if done > max(_FREE_BYTES, MOST_TIMES * taken):
            why = f"{taken:,} bytes of it became {done:,}"
            raise TornArchiveError(path, done_bytes=done, why=why, reason="archive expands")
        if sum(map(len, texts)) >= _CHUNK_BYTES:
            yield b"".join(texts)
            texts.clear()
    yield from filter(None, [b"".join(texts)])
    if not begun:
        raise TornArchiveError(
            path, done_bytes=0, why="the file is empty, and even an archive without content has bytes"
        )
    if not frame.eof:
        raise TornArchiveError(path, done_bytes=done, why="the last frame has no end")


def _in_steps(packed: Iterator[bytes]) -> Iterator[bytes]:
    return (chunk[at : at + _STEP_BYTES] for chunk in packed for at in range(0, len(chunk), _STEP_BYTES))


def _tell(path: Path, head: bytes, error: Exception, *, done_bytes: int) -> TornArchiveError:
    """The error for an archive that begins with ``head`` and cannot be decompressed on."""
    if done_bytes == 0 and not head.startswith(_MAGIC[path.suffix.lower()]):
        names = [ending for ending, magic in _MAGIC.items() if head.startswith(magic)]
        begins = f"like a {names[0]}" if names else f"with {head[:12]!r}"
        return TornArchiveError(path, done_bytes=0, why=f"it begins {begins}", reason="no archive")
    large = "too much memory" in str(error)
    return TornArchiveError(
        path, done_bytes=done_bytes, why=str(error), reason="archive window" if large else "torn archive"
    )


_TORN = (EOFError, OSError, zlib.error, lzma.LZMAError, zstandard.ZstdError)
_GZIP = 31
_WINDOW_BYTES = 1 << 31
"""The largest window of zstd, which ``--long=31`` sets. The default of zstd is 128 MiB."""
_ZSTD_MAGIC = (b"\x28\xb5\x2f\xfd", *(bytes([0x50 + number]) + b"\x2a\x4d\x18" for number in range(16)))
_MAGIC: Mapping[str, bytes | tuple[bytes, ...]] = MappingProxyType(
    {
        ".zst": _ZSTD_MAGIC,
        ".zstd": _ZSTD_MAGIC,
        **dict.fromkeys((".gz", ".tgz"), b"\x1f\x8b"),
        ".bz2": b"BZh",
        ".xz": (b"\xfd7zXZ\0", b"\x5d\0\0"),
    }
)


def _unpack_zstd() -> Any:
    return zstandard.ZstdDecompressor(max_window_size=_WINDOW_BYTES).decompressobj()


_UNPACK: Mapping[str, Callable[[], Any]] = MappingProxyType(
    {
        ".zst": _unpack_zstd,
        ".zstd": _unpack_zstd,
        **dict.fromkeys((".gz", ".tgz"), lambda: zlib.decompressobj(wbits=_GZIP)),
        ".bz2": bz2.BZ2Decompressor,
        ".xz": lzma.LZMADecompressor,
    }
)
