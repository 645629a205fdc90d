"""Handles wrong data: an error with file, line and byte, or a reject that is counted and kept.

Bad input is normal in data, and no fault passes without a report. By default the first fault stops the run. With
``faults: skip`` a fault becomes a reject. ``faults: replace`` also repairs a fault where this is possible: it replaces
bad bytes by U+FFFD.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ropewalk.core.error import UserError, explain_import_fault
from ropewalk.corpus.read.encodings import find_encoding, guess_encoding, marked_encoding
from ropewalk.corpus.read.files import File
from ropewalk.corpus.read_options import FileOptions
from ropewalk.corpus.spec import Source
from ropewalk.corpus.text.reject import Reject, excerpt, spell_name, text_bytes


@dataclass(frozen=True, slots=True)
class Place:
    """The place where something was read. Messages show ``file``; stored data uses ``name``, the name inside the
    source."""

    file: str
    name: str
    line: int = 1
    offset: int = 0
    part: str = ""
    """The part of the file, where a line number does not give the place: ``row 7``."""

    @classmethod
    def of(cls, file: File) -> "Place":
        """The beginning of a file."""
        return cls(file.shown or str(file.path), file.name)

    @property
    def id(self) -> str:
        """The id of a document that has none of its own. It does not depend on the folder in which the source lies."""
        return ", ".join(filter(None, [self.name, self.part])) if self.part else f"{self.name}:{self.line}"

    @property
    def inside(self) -> str:
        """The place, relative to the source's root."""
        return self._tell(self.name)

    def __str__(self) -> str:
        return self._tell(self.file)

    def _tell(self, name: str) -> str:
        whole = ", ".join(filter(None, [name, self.part]))
        return f"{whole}, line {self.line}, byte {self.offset:,}"


@dataclass(frozen=True, slots=True)
class WholeText:
    """The text of a file that is no record."""

    text: str
    part: Mapping[str, Any] | None = None
    """Its place in a join (join_parts.py)."""


Found = tuple[Place, object] | Reject
"""A record with its place, or a reject that gives the reason. The record is not checked yet and may be no mapping."""


def reject(
    source: Source, place: Place, reason: str, why: str, *, size_bytes: int, text: str = "", offer: str = ""
) -> Reject:
    """Return a fault as a reject, which the ledger counts. Raises UserError where the source has ``faults: error``.

    ``offer`` is a change of the source that would read the record.
    """
    why = spell_name(why)  # it may name keys of a record
    if source.faults != "error":
        return Reject(place.inside, reason, size_bytes, why, place.inside, excerpt(text))
    raise UserError(
        f"{reason} in source {source.name}",
        where=str(place),
        why=why,
        fix=f"set {offer} on this source, or correct the file, or set faults: skip to drop and count such documents"
        if offer
        else "correct the file, or the key of this source that names the field, or set faults: skip on it to drop and "
        "count such documents",
    )


def missing_library(source: Source, what: str, fault: ImportError, *, library: str, extra: str) -> UserError:
    """The error for a source that needs an optional library. ``fault`` may name the library that is missing."""
    return UserError(
        f"{what} need another library",
        where=f"source {source.name}: {source.path or source.hub}",
        why=explain_import_fault(fault, library),
        fix=f"pip install 'ropewalk[{extra}]'",
    )


def encoding_of(source: Source) -> str:
    """The encoding in which a source's text files are read."""
    options = source.record_options
    return options.encoding if isinstance(options, FileOptions) else "utf-8"


def file_encoding(head: bytes, source: Source) -> str:
    """The encoding of a file that begins with ``head``. A byte-order mark takes precedence over the source's option."""
    return marked_encoding(head) or encoding_of(source)


def decode_text(content: bytes, source: Source, place: Place, encoding: str) -> str | Reject:
    """Decode bytes as text, or return a reject. At the beginning of a file, the byte-order mark is removed.

    Raises UserError for invalid bytes where the source has ``faults: error``.
    """
    try:
        return content.decode(encoding).removeprefix("\ufeff" if place.offset == 0 else "")
    except UnicodeDecodeError as error:
        if source.faults == "replace":
            return content.decode(encoding, "replace")
        at = replace(place, offset=place.offset + error.start, line=place.line + content[: error.start].count(b"\n"))
        name = "UTF-8" if encoding == "utf-8" else encoding
        why = f"{error.reason}: 0x{content[error.start]:02x}{guess_encoding(content, error.start, encoding)}"
        guessed = find_encoding(content, error.start, encoding)
        offer = f"options: {{encoding: {guessed}}}" if guessed else ""
        text = content[max(0, error.start - 100) : error.start + 100].decode("utf-8", "replace")
        return reject(source, at, f"invalid {name}", why, size_bytes=len(content), text=text, offer=offer)


def check_text(text: str, source: Source, place: Place) -> str | Reject:
    """Return the text if it is valid, else a reject. NUL characters and halves of surrogate pairs are faults, which
    ``faults: replace`` repairs.

    Raises UserError for such a fault where the source has ``faults: error``.
    """
    at = text.find("\x00")
    if at >= 0:
        if source.faults != "replace":
            why = (
                f"{text.count(chr(0)):,} of them, the first after {at:,} characters: a binary file, or UTF-16 "
                "without a byte order mark"
            )
            return reject(
                source, place, "NUL characters", why, size_bytes=text_bytes(text), text=text.replace("\x00", "\ufffd")
            )
        text = text.replace("\x00", "")
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError as error:
        if source.faults != "replace":
            why = f"half a surrogate pair, character {error.start}"
            return reject(source, place, "invalid text", why, size_bytes=text_bytes(text), text=text)
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
