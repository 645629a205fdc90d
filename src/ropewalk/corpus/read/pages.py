"""Reads the text of one file that is no record: plain or packed text, a page of HTML, a PDF.

Of a page, the main text is read, without menus and adverts (trafilatura). Of a PDF, the text layer is read, page by
page. A scan has no text layer and is a fault, because there is no OCR here.
"""

import zlib
from dataclasses import replace
from pathlib import Path

from ropewalk.core.quantity import format_count
from ropewalk.corpus.read.archive import TornArchiveError, read_chunks
from ropewalk.corpus.read.bad_input import Place, check_text, decode_text, file_encoding, missing_library, reject
from ropewalk.corpus.read.files import File
from ropewalk.corpus.read.remote import local_copy
from ropewalk.corpus.spec import Source
from ropewalk.corpus.text.reject import Reject

# Errors that pypdf raises for files that are no valid PDF, beside its own errors.
_BROKEN = (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError, OSError, zlib.error)


def read_text(file: File, source: Source) -> str | Reject:
    """The text of a file, read by its kind, or a reject with the reason why it has none.

    Raises UserError for a fault where the source has ``faults: error``.
    """
    place = Place.of(file)
    if file.kind == "pdf":
        text = _read_pdf(file.path, source, place)
    else:
        try:
            content = b"".join(read_chunks(file.path))
        except TornArchiveError as torn:
            if source.faults == "error":
                raise
            at = replace(place, offset=torn.done_bytes)
            return reject(source, at, torn.reason, torn.why, size_bytes=torn.done_bytes)
        text = decode_text(content, source, place, file_encoding(content[:4], source))
        del content
        if isinstance(text, str) and file.kind == "page":
            page = text
            text = extract_text(page, source) or reject(
                source, place, "no text", "the page has no main text", size_bytes=len(page.encode()), text=page
            )
    return text if isinstance(text, Reject) else check_text(text, source, place)


def read_file(file: File, source: Source) -> str | Reject:
    """``read_text`` of a file that may lie on the network."""
    with local_copy(file) as here:
        return read_text(here, source)


def extract_text(page: str | bytes, source: Source) -> str | None:
    """The main text of a page of HTML, if it has one. Bytes are decoded as the page says."""
    try:
        from trafilatura import extract
    except ImportError as fault:
        raise missing_library(source, "HTML pages", fault, library="trafilatura", extra="html") from None
    text = extract(page, include_comments=False, include_tables=True) if page.strip() else None
    return str(text) if text else None


def _read_pdf(path: Path, source: Source, place: Place) -> str | Reject:
    try:
        from pypdf import PdfReader
        from pypdf.errors import PyPdfError
    except ImportError as fault:
        raise missing_library(source, "PDF files", fault, library="pypdf", extra="pdf") from None
    size = path.stat().st_size
    try:
        with path.open("rb") as stream:
            reader = PdfReader(stream)
            if reader.is_encrypted and not reader.decrypt(""):
                return reject(source, place, "encrypted PDF", "it needs a password", size_bytes=size)
            pages = [page.extract_text() for page in reader.pages]
    except (PyPdfError, *_BROKEN) as error:
        why = str(error) or type(error).__name__
        return reject(source, place, "broken PDF", why, size_bytes=size)
    text = "\n\n".join(page for page in pages if page.strip())
    if not text:
        return reject(
            source,
            place,
            "no text",
            f"none of its {format_count(len(pages), 'page')} has a text layer",
            size_bytes=size,
        )
    return text
