"""Reads the files in an archive of files (.tar, also compressed, and .zip) as if they lay in a folder.

A member that is damaged is a fault of its own, and the next members are read. What the archive itself says wrongly (a
header in the middle of a tar, the directory of a zip) is a fault of the archive, and ends it.

One member at a time is written to a temporary folder and read from there, so that the disk that is used does not grow
with the archive. In a tar, the members of one WebDataset sample (equal names up to the first dot, one after the other)
become one record: the fields of its .json, and the text of its .txt under the source's ``text_key``.
"""

import lzma
import stat
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import IO, Any

from ropewalk.core.error import UserError
from ropewalk.corpus.read.archive import MOST_TIMES, ChunkStream, TornArchiveError, read_chunks
from ropewalk.corpus.read.bad_input import Found, Place, WholeText, reject
from ropewalk.corpus.read.files import File, Kind, kind_of, suffix_of, why_unread
from ropewalk.corpus.read.pages import read_text
from ropewalk.corpus.spec import Source
from ropewalk.corpus.text.reject import Reject

_ARCHIVES = frozenset[Kind](["tar", "zip", "warc"])
_BROKEN_ZIP = (
    zipfile.BadZipFile,
    NotImplementedError,
    RuntimeError,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    OSError,
    ValueError,
)
"""What zipfile raises: RuntimeError for a password, NotImplementedError for a compression that Python has not,
ValueError for a name or a place that cannot be."""
_LARGE_BYTES, _LINK, _ENCRYPTED = 1 << 26, "link", 1


class _BrokenArchiveError(Exception):
    """An archive of which no further member can be read."""


@dataclass(frozen=True, slots=True)
class _Member:
    """A file in an archive. ``open`` gives its content, once. ``fault`` says why it has none: a link, or a size that
    no text has."""

    name: str
    size_bytes: int
    open: Callable[[], IO[bytes]]
    fault: str = ""


def read_members(
    file: File, source: Source, read_records: Callable[[File, Source], Iterator[Found]]
) -> Iterator[Found]:
    """Yield the records and texts of all members, in the order of the archive. ``read_records`` reads one file of
    records.

    A member that is not read (an image, a hidden file, an archive in the archive) is a reject, whatever ``faults``
    says, so that it is counted. Raises UserError where the source wants files joined.
    """
    if source.join is not None and source.join.by_folder:
        raise UserError(
            "the files of an archive cannot be joined",
            where=f"source {source.name}: {file.path}",
            why=f"join.by is {source.join.by[0]}, and an archive is read member by member",
            fix="unpack it into a folder, or leave out join",
        )
    members = _tar_members(file) if file.kind == "tar" else _zip_members(file)
    try:
        for key, sample in groupby(members, key=lambda member: _sample_of(member.name)):
            yield from _read_sample(key, sample, file, source, read_records)
    except TornArchiveError as torn:
        if source.faults == "error":
            raise
        yield reject(source, replace(Place.of(file), offset=torn.done_bytes), torn.reason, torn.why, size_bytes=0)
    except (tarfile.TarError, _BrokenArchiveError) as error:
        yield reject(source, Place.of(file), "broken archive", str(error) or type(error).__name__, size_bytes=0)


def _read_sample(
    key: str,
    sample: Iterator[_Member],
    file: File,
    source: Source,
    read_records: Callable[[File, Source], Iterator[Found]],
) -> Iterator[Found]:
    """The documents of members that follow each other and have one name up to the first dot."""
    fields: tuple[Place, dict[str, object]] | None = None
    text: tuple[Place, WholeText] | None = None
    fault: Exception | None = None
    try:
        for member, found in ((m, each) for m in sample for each in _read_member(m, file, source, read_records)):
            if isinstance(found, Reject):
                yield found
            elif fields is None and file.kind == "tar" and member.name == f"{key}.json" and isinstance(found[1], dict):
                fields = found[0], found[1]
            elif text is None and isinstance(found[1], WholeText):
                text = found[0], found[1]
            else:
                yield found
    except (TornArchiveError, tarfile.TarError, _BrokenArchiveError) as error:
        fault = error  # the next member cannot be read, but what this sample has so far can
    if fields is not None and text is not None and source.text_key not in fields[1]:
        yield text[0], {"id": f"{file.name}/{key}", **fields[1], source.text_key: text[1].text}
    else:
        yield from (found for found in (fields, text) if found is not None)
    if fault is not None:
        raise fault


def _read_member(
    member: _Member, file: File, source: Source, read_records: Callable[[File, Source], Iterator[Found]]
) -> Iterator[Found]:
    name, path = f"{file.name}/{member.name}", PurePosixPath(member.name)
    kind = kind_of(Path(path.name), code=source.is_code)
    hidden = any(part.startswith(".") for part in path.parts if part not in (".", ".."))
    if kind is None or kind in _ARCHIVES or hidden or "__MACOSX" in path.parts:
        sort, why = suffix_of(Path(path.name)) or "no suffix", why_unread(Path(path.name), code=source.is_code)
        if hidden or "__MACOSX" in path.parts:
            sort, why = "hidden", "its name, or the name of its folder, begins with a dot or is __MACOSX"
        elif kind in _ARCHIVES:
            why = "an archive in an archive: unpack the outer one"
        yield Reject(name, f"a member that is not read ({sort})", member.size_bytes, why, name)
        return
    if member.fault == _LINK:
        yield Reject(name, f"a member that is not read ({_LINK})", 0, "its content is that of another file", name)
        return
    with tempfile.TemporaryDirectory(prefix="ropewalk-member-") as folder:
        copy = Path(folder) / f"member{path.suffix}"  # a name of the archive may be longer than a disk allows
        inner = File(copy, name, kind, shown=f"{file.path}/{member.name}")
        if why := member.fault or _copy(member, copy):
            yield reject(source, Place.of(inner), "broken archive member", why, size_bytes=member.size_bytes)
        elif inner.is_record or (source.reads_lines and kind == "text"):
            yield from read_records(inner, source)
        else:
            text = read_text(inner, source)
            yield text if isinstance(text, Reject) else (Place.of(inner), WholeText(text))


def _copy(member: _Member, target: Path) -> str:
    """Write the content of a member to a file. Returns why it cannot be read; empty where it was."""
    with target.open("wb") as file:
        try:
            content = member.open()
        except _BROKEN_ZIP as error:
            return str(error) or type(error).__name__
        with content:
            while True:
                try:
                    part = content.read(1 << 20)
                except _BROKEN_ZIP as error:
                    return str(error) or type(error).__name__
                if not part:
                    return ""
                file.write(part)


def _sample_of(name: str) -> str:
    """A member's path up to the first dot of its file name, as WebDataset names a sample."""
    path = PurePosixPath(name)
    return str(path.with_name(path.name.split(".")[0] or path.name))


def _tar_members(file: File) -> Iterator[_Member]:
    """The files of a tar, read in one pass. Raises TornArchiveError where it ends early."""
    stream: Any = ChunkStream(read_chunks(file.path))
    # names in another encoding, such as GBK, become escapes: they are ids, and must be text
    with tarfile.open(fileobj=stream, mode="r|", encoding="utf-8", errors="backslashreplace") as archive:
        while (entry := _next_entry(archive)) is not None:
            if entry.isreg():
                yield _Member(entry.name, entry.size, lambda entry=entry: _opened(archive.extractfile(entry)))  # type: ignore[misc]
            elif not entry.isdir():
                yield _Member(entry.name, 0, _nothing, _LINK)
        end = archive.offset
    while stream.read(1 << 20):
        pass
    # tarfile takes an end between two members, and a header that is damaged, for the end of the archive.
    if stream.done_bytes < end + tarfile.BLOCKSIZE:
        raise TornArchiveError(file.path, done_bytes=stream.done_bytes, why="it does not end with a block of zeros")
    if stream.filled_bytes > end:
        why = "behind its last member there is a damaged header, or another archive"
        raise TornArchiveError(file.path, done_bytes=end, why=why)


def _next_entry(archive: tarfile.TarFile) -> tarfile.TarInfo | None:
    try:
        entry = archive.next()
        # a list of all members so far, with half a kilobyte for each
        archive.members.clear()  # type: ignore[attr-defined]
        return entry
    except (ValueError, OverflowError, struct.error) as error:  # of numbers and names in a damaged header
        raise _BrokenArchiveError(str(error)) from None


def _opened(content: Any) -> Any:
    assert content is not None  # only of folders and links
    return content


def _nothing() -> IO[bytes]:
    raise AssertionError("a link is not opened")


def _zip_members(file: File) -> Iterator[_Member]:
    with file.path.open("rb") as stream:
        try:
            archive = zipfile.ZipFile(stream)
        except _BROKEN_ZIP as error:
            raise _BrokenArchiveError(str(error) or type(error).__name__) from None
        with archive:
            for entry in archive.infolist():
                if stat.S_ISLNK(entry.external_attr >> 16):  # the mode that Unix writes
                    yield _Member(entry.filename, 0, _nothing, _LINK)
                elif not entry.is_dir():
                    size, packed = entry.file_size, entry.compress_size
                    grows = size > max(_LARGE_BYTES, MOST_TIMES * packed)
                    fault = f"{packed:,} bytes of it become {size:,}: no text can" if grows else ""
                    if entry.flag_bits & _ENCRYPTED:
                        fault = "it is encrypted: unpack the archive with its password"
                    yield _Member(entry.filename, size, lambda entry=entry: archive.open(entry), fault)  # type: ignore[misc]
