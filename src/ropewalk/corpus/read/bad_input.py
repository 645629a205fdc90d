"""What happens where data is wrong: stop with file, line and byte, or a reject that is counted and kept.

Bad input is the rule in data and never passes in silence. By default the first fault stops; ``faults: skip`` makes a
fault a reject; ``replace`` also mends what can be mended, bad bytes with U+FFFD.
"""

from dataclasses import dataclass, replace

from ropewalk.core.error import UserError, explain_import_fault
from ropewalk.corpus.read.encodings import guess_encoding, marked_encoding
from ropewalk.corpus.read.files import File
from ropewalk.corpus.spec import FileOptions, Source
from ropewalk.corpus.text.reject import Reject, excerpt


@dataclass(frozen=True, slots=True)
class Place:
    """Where something was read: the file for people, and its name inside the source for what is stored."""

    file: str
    name: str
    line: int = 1
    offset: int = 0
    part: str = ""
    """What of the file, where lines do not say it: ``row 7``."""

    @classmethod
    def of(cls, file: File) -> "Place":
        """The beginning of a file."""
        return cls(str(file.path), file.name)

    @property
    def id(self) -> str:
        """What a document is called that has no name of its own; the same wherever the source lies."""
        return ", ".join(filter(None, [self.name, self.part])) if self.part else f"{self.name}:{self.line}"

    @property
    def inside(self) -> str:
        """The place, seen from the source's root."""
        return self._tell(self.name)

    def __str__(self) -> str:
        return self._tell(self.file)

    def _tell(self, name: str) -> str:
        whole = ", ".join(filter(None, [name, self.part]))
        return f"{whole}, line {self.line}, byte {self.offset:,}"


Found = tuple[Place, object] | Reject
"""A record (which may be no mapping yet) with its place, or why there is none."""


def reject(source: Source, place: Place, reason: str, why: str, *, size_bytes: int, text: str = "") -> Reject:
    """A fault as a reject that the ledger counts, or as an error where the source is to have none."""
    if source.faults != "error":
        return Reject(place.inside, reason, size_bytes, why, place.inside, excerpt(text))
    raise UserError(
        f"{reason} in source {source.name}",
        where=str(place),
        why=why,
        fix="mend the file, or set faults: skip on this source to drop and count such documents",
    )


def missing_library(source: Source, what: str, fault: ImportError, *, library: str, extra: str) -> UserError:
    """The error for a source that an optional library reads; ``fault`` says which library is missing, if it can."""
    return UserError(
        f"{what} need one more library",
        where=f"source {source.name}: {source.path or source.hub}",
        why=explain_import_fault(fault, library),
        fix=f"pip install 'ropewalk[{extra}]'",
    )


def encoding_of(source: Source) -> str:
    """The encoding that a source's text files are read in."""
    options = source.record_options
    return options.encoding if isinstance(options, FileOptions) else "utf-8"


def file_encoding(head: bytes, source: Source) -> str:
    """The encoding of a file that begins with ``head``: a byte-order mark says more than the source does."""
    return marked_encoding(head) or encoding_of(source)


def decode(content: bytes, source: Source, place: Place, encoding: str) -> str | Reject:
    """Bytes as text, at a file's beginning without its byte-order mark."""
    try:
        return content.decode(encoding).removeprefix("\ufeff" if place.offset == 0 else "")
    except UnicodeDecodeError as error:
        if source.faults == "replace":
            return content.decode(encoding, "replace")
        at = replace(place, offset=place.offset + error.start, line=place.line + content[: error.start].count(b"\n"))
        name = "UTF-8" if encoding == "utf-8" else encoding
        why = f"{error.reason}: 0x{content[error.start]:02x}{guess_encoding(content, error.start, encoding)}"
        text = content[max(0, error.start - 100) : error.start + 100].decode("utf-8", "replace")
        return reject(source, at, f"invalid {name}", why, size_bytes=len(content), text=text)


def check_text(text: str, source: Source, place: Place) -> str | Reject:
    """The text if it can be one; NULs and halves of surrogate pairs are faults that ``replace`` mends."""
    at = text.find("\x00")
    if at >= 0:
        if source.faults != "replace":
            why = (
                f"{text.count(chr(0)):,} of them, the first after {at:,} characters: a binary, or UTF-16 without a mark"
            )
            return reject(
                source, place, "NUL characters", why, size_bytes=_size(text), text=text.replace("\x00", "\ufffd")
            )
        text = text.replace("\x00", "")
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError as error:
        if source.faults != "replace":
            why = f"half a surrogate pair, character {error.start}"
            return reject(source, place, "invalid text", why, size_bytes=_size(text), text=text)
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _size(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))
