"""Reads the pages of a web archive: WET (text that a crawler extracted) and WARC (pages as a server answered).

A record is a block of fields, an empty line, ``Content-Length`` bytes of content, and empty lines. What does not fit
this ends the reading with a fault: behind a wrong length nothing can be trusted. The main text of a page of HTML is
read as that of a file is (pages.py).
"""

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from ropewalk.corpus.read.archive import ChunkStream, TornArchiveError, read_chunks
from ropewalk.corpus.read.bad_input import Found, Place, decode_text, reject
from ropewalk.corpus.read.files import File
from ropewalk.corpus.read.pages import extract_text
from ropewalk.corpus.read_options import name_encoding
from ropewalk.corpus.spec import Source
from ropewalk.corpus.text.reject import Reject

_WITH_PAGE = ("response", "conversion", "resource")
_HTML = ("text/html", "application/xhtml+xml")
_GZIP_OR_ZLIB, _BARE = 47, -15
_GZIP = b"\x1f\x8b"
_HEAD_BYTES, _PART_BYTES, _PAGE_BYTES = 1 << 20, 1 << 20, 1 << 28
"""The most bytes of a record's fields; bytes that are skipped at once; the largest page that is read."""


class _BrokenError(Exception):
    """The archive does not go on as a web archive does."""


@dataclass(frozen=True, slots=True)
class _Record:
    """The fields of a record, in small letters, and its content; ``content`` is None where it is no page that is
    read."""

    fields: Mapping[str, str]
    content: bytes | None
    offset: int


def read_web_archive(file: File, source: Source) -> Iterator[Found]:
    """Yield a record ``{text_key, id, url, date}`` for each page with text.

    Answers that are neither HTML nor plain text, those without success (status 200) and pages without a main text are
    rejects, whatever ``faults`` says: a crawl is full of them. Requests and metadata are passed over.
    """
    number, stream = 0, ChunkStream(read_chunks(file.path))
    try:
        for record in _read_pages(stream):
            number += 1
            yield _read_page(record, source, replace(Place.of(file), part=f"page {number}", offset=record.offset))
    except TornArchiveError as torn:
        if source.faults == "error":
            raise
        place = replace(Place.of(file), part=f"page {number + 1}", offset=torn.done_bytes)
        yield reject(source, place, torn.reason, torn.why, size_bytes=0)
    except _BrokenError as error:
        place = replace(Place.of(file), part=f"page {number + 1}", offset=stream.done_bytes)
        yield reject(source, place, "broken web archive", str(error), size_bytes=0)
        return
    if number == 0:
        yield reject(source, Place.of(file), "broken web archive", "it has no record of a page", size_bytes=0)


def _read_pages(stream: ChunkStream) -> Iterator[_Record]:
    """The records of pages. Raises _BrokenError where the archive breaks off, or is none."""
    offset = 0
    while head := _read_head(stream):
        version, _, rest = head.partition("\n")
        if not version.startswith("WARC/"):
            raise _BrokenError(f"a record must begin with WARC/, and this begins with {version.strip()[:40]!r}")
        fields = _parse_fields(rest)
        length = fields.get("content-length", "")
        if not (length.isascii() and length.isdigit()):
            raise _BrokenError(f"Content-Length of a record is {length!r}, and not a number of bytes")
        size = int(length)
        if fields.get("warc-type") in _WITH_PAGE and size <= _PAGE_BYTES:
            content = stream.read(size)
            missing = size - len(content)
        else:
            content, missing = None, size
            while missing and (part := stream.read(min(missing, _PART_BYTES))):
                missing -= len(part)
        if missing:
            raise _BrokenError(f"{missing:,} of the {size:,} bytes of a record are missing")
        if stream.read(4).strip(b"\r\n"):
            raise _BrokenError("a record is not followed by an empty line, so that its Content-Length must be wrong")
        if fields.get("warc-type") in _WITH_PAGE:
            yield _Record(fields, content, offset)
        offset = stream.done_bytes


def _read_head(stream: ChunkStream) -> str:
    """The fields of the next record, up to its empty line; empty at the end of the archive."""
    head = b""
    while line := stream.read_line(_HEAD_BYTES):
        if line.strip(b"\r\n"):
            head += line
        elif head:
            return head.decode("utf-8", "replace")
        if len(head) > _HEAD_BYTES:
            raise _BrokenError(f"the fields of a record are longer than {_HEAD_BYTES:,} bytes")
    if head:
        raise _BrokenError("the archive ends within the fields of a record")
    return ""


def _parse_fields(lines: str) -> dict[str, str]:
    """Fields by name in small letters. A line that begins with a blank goes on with the one before."""
    fields: dict[str, str] = {}
    name = ""
    for line in lines.split("\n"):  # splitlines would also end a line at characters that a value may hold
        if line[:1] in (" ", "\t") and name:
            fields[name] += f" {line.strip()}"
            continue
        name, colon, value = line.partition(":")
        name = name.strip().lower()
        if colon and name not in fields:
            fields[name] = value.strip()
    return fields


def _read_page(record: _Record, source: Source, place: Place) -> Found:
    said, content = record.fields, record.content
    url = said.get("warc-target-uri", "").strip("<>")
    if content is None:
        why = f"{int(said['content-length']):,} bytes: {url}"
        return Reject(place.inside, "no page of text", 0, why, place.inside)
    told, why = said.get("content-type", ""), _find_cut(said)
    if not why and content.startswith(b"HTTP/") and said["warc-type"] == "response":
        head, content = _split_head(content)
        status, _, rest = head.partition("\n")
        http = _parse_fields(rest)
        code = [*status.split(), "", ""][1]
        told, why = http.get("content-type", ""), "" if code == "200" else f"status {code}"
        if not why:
            content, why = _decode_body(content, http)
    kind, _, more = told.lower().partition(";")
    kind = kind.strip()
    if not why and kind not in (*_HTML, "text/plain"):
        why = kind or "no content type"
    if why:
        return Reject(place.inside, "no page of text", len(content), f"{why}: {url}", place.inside)
    text: str | Reject | None
    if kind in _HTML:
        text = extract_text(content, source)
    else:
        text = decode_text(content, source, place, _find_encoding(more))
    if not text:
        return Reject(place.inside, "no text", len(content), f"no main text: {url}", place.inside)
    if isinstance(text, Reject):
        return text
    fields = {"id": said.get("warc-record-id"), "url": url, "date": said.get("warc-date")}
    return place, {key: value for key, value in fields.items() if value} | {source.text_key: text}


def _find_cut(said: Mapping[str, str]) -> str:
    """Why a record holds only a part of its page; empty where it holds all of it."""
    if "warc-truncated" in said:
        return f"cut by the crawler ({said['warc-truncated']})"
    return "one of several segments" if "warc-segment-number" in said else ""


def _split_head(content: bytes) -> tuple[str, bytes]:
    """The status line and the fields of an answer, and its body."""
    found = [(at, len(mark)) for mark in (b"\r\n\r\n", b"\n\n") if (at := content.find(mark)) >= 0]
    at, mark_bytes = min(found, default=(len(content), 0))
    return content[:at].decode("latin-1"), content[at + mark_bytes :]


def _decode_body(body: bytes, http: Mapping[str, str]) -> tuple[bytes, str]:
    """The body of an answer without its transfer and content encoding, and why it cannot be read, where it cannot.

    A crawler may have decoded it and left the fields: what does not begin as an encoding does is taken as it is.
    """
    if "chunked" in http.get("transfer-encoding", "").lower():
        body, is_whole = _join_parts(body)
        if not is_whole:
            return body, "its parts are damaged"
    encoding = http.get("content-encoding", "").lower()
    if encoding in ("gzip", "x-gzip", "deflate"):
        for wrapper in (_GZIP_OR_ZLIB, _BARE) if encoding == "deflate" else (_GZIP_OR_ZLIB,):
            try:
                found, is_whole = _unpack(body, wrapper)
            except zlib.error as error:
                if encoding != "deflate" and body.startswith(_GZIP):
                    return body, f"damaged {encoding}: {error}"
                continue
            return found, "" if is_whole else f"its {encoding} is not complete"
    elif encoding not in ("", "identity"):
        return body, f"encoded as {encoding}"
    return body, ""


def _unpack(body: bytes, wrapper: int) -> tuple[bytes, bool]:
    """The content of a compressed body, which may have several members of gzip, and whether it is whole.

    Raises zlib.error.
    """
    parts: list[bytes] = []
    left_bytes = _PAGE_BYTES
    while left_bytes > 0:
        unpack = zlib.decompressobj(wrapper)
        parts.append(unpack.decompress(body, left_bytes))
        left_bytes -= len(parts[-1])
        body = unpack.unused_data
        if not (unpack.eof and body.startswith(_GZIP)):
            return b"".join(parts), unpack.eof
    return b"".join(parts), False


def _join_parts(body: bytes) -> tuple[bytes, bool]:
    """The content of a chunked body, and whether it is whole. A body that does not begin with a length is no such."""
    parts: list[bytes] = []
    at = 0
    while True:
        end = body.find(b"\n", at)
        length = body[at : max(end, at)].partition(b";")[0].strip()
        try:
            size = int(length, 16)
        except ValueError:
            return (body, True) if at == 0 else (b"".join(parts), False)
        if size <= 0:
            return b"".join(parts), size == 0
        parts.append(body[end + 1 : end + 1 + size])
        if len(parts[-1]) < size:
            return b"".join(parts), False
        at = end + 1 + size
        at += 2 if body[at : at + 2] == b"\r\n" else 1


def _find_encoding(parameters: str) -> str:
    """The encoding that a content type's ``parameters`` name; UTF-8 without one that a page may be in."""
    told = parameters.partition("charset=")[2].partition(";")[0].strip(" \"'")
    return name_encoding(told) or "utf-8"
