"""Reads the pages of a web archive: WET (text that a crawler extracted) and WARC (pages as a server answered).

The main text of a page of HTML is read as that of a file is (pages.py). warcio parses the records.
"""

import codecs
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from ropewalk.corpus.read.archive import ChunkStream, TornArchiveError, read_chunks
from ropewalk.corpus.read.bad_input import Found, Place, decode_text, missing_library, reject
from ropewalk.corpus.read.files import File
from ropewalk.corpus.read.pages import extract_text
from ropewalk.corpus.spec import Source
from ropewalk.corpus.text.reject import Reject

_WITH_PAGE = ("response", "conversion", "resource")
_HTML = ("text/html", "application/xhtml+xml")


def read_web_archive(file: File, source: Source) -> Iterator[Found]:
    """Yield a record ``{text_key, id, url, date}`` for each page with text.

    Answers that are neither HTML nor plain text, those without success (status 200) and pages without a main text are
    rejects, whatever ``faults`` says: a crawl is full of them. Requests and metadata are passed over.
    """
    try:
        from warcio.archiveiterator import ArchiveIterator
        from warcio.exceptions import ArchiveLoadFailed
    except ImportError as fault:
        raise missing_library(source, "web archives", fault, library="warcio", extra="warc") from None
    number = 0
    try:
        for page in ArchiveIterator(ChunkStream(read_chunks(file.path))):
            if page.rec_type in _WITH_PAGE:
                number += 1
                yield _read_page(page, source, replace(Place.of(file), part=f"page {number}"))
    except TornArchiveError as torn:
        if source.faults == "error":
            raise
        place = replace(Place.of(file), part=f"page {number + 1}", offset=torn.done_bytes)
        yield reject(source, place, torn.reason, torn.why, size_bytes=0)
    except (ArchiveLoadFailed, ValueError, EOFError) as error:
        place = replace(Place.of(file), part=f"page {number + 1}")
        yield reject(source, place, "broken web archive", str(error) or type(error).__name__, size_bytes=0)
        return
    if number == 0:
        yield reject(source, Place.of(file), "broken web archive", "it has no record of a page", size_bytes=0)


def _read_page(page: Any, source: Source, place: Place) -> Found:
    said, http = page.rec_headers, page.http_headers
    content: bytes = page.content_stream().read()
    url = said.get_header("WARC-Target-URI") or ""
    whole = int(said.get_header("Content-Length") or -1)
    if http is None and 0 <= len(content) < whole:
        return reject(source, place, "torn web archive", f"{len(content)} of {whole} bytes", size_bytes=len(content))
    told = http.get_header("Content-Type") if http else said.get_header("Content-Type")
    kind, _, more = (told or "").lower().partition(";")
    kind = kind.strip()
    why = f"status {http.get_statuscode()}" if http and http.get_statuscode() != "200" else ""
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
    fields = {"id": said.get_header("WARC-Record-ID"), "url": url, "date": said.get_header("WARC-Date")}
    return place, {key: value for key, value in fields.items() if value} | {source.text_key: text}


def _find_encoding(parameters: str) -> str:
    """The encoding that a content type's ``parameters`` name; UTF-8 without one that Python knows."""
    try:
        return codecs.lookup(parameters.partition("charset=")[2].strip(" \"'")).name
    except LookupError:
        return "utf-8"
