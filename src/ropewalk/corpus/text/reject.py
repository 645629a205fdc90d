"""A reject: an input that should have become a document of the corpus and did not, with reason, place and beginning.

Every reject is one line in its store's ``rejects.jsonl``, and the ledger adds its amount under its reason.
"""

from dataclasses import dataclass

from ropewalk.core.read_json import parse_written
from ropewalk.core.record import Document
from ropewalk.core.strict_json import spell_json

EXCERPT_CHARACTERS = 400
_DROPPED = b'"dropped": '
"""A key of the lines of rejects. In a text the quotes would be escaped, so no text contains it; a column of scores may
have this name."""


@dataclass(frozen=True, slots=True)
class Reject:
    """The ledger counts by ``reason``. ``why`` is the measure or fault behind it; ``place`` is file, line and byte."""

    id: str
    reason: str
    size_bytes: int
    why: str = ""
    place: str = ""
    excerpt: str = ""

    def to_line(self) -> str:
        """The reject as a line of JSON."""
        entry = {"id": self.id, "dropped": self.reason, "why": self.why, "place": self.place, "bytes": self.size_bytes}
        return spell_json({**entry, "text": self.excerpt}, ensure_ascii=False) + "\n"


def is_stored(line: bytes) -> bool:
    """Whether a line of ``documents.jsonl`` is of a stored document, not of a reject."""
    return _DROPPED not in line or "dropped" not in parse_written(line)


def excerpt(text: str) -> str:
    """The beginning of a text, and its end where the text is long. A person needs both to judge a drop."""
    if len(text) <= EXCERPT_CHARACTERS:
        shown = text
    else:
        half = EXCERPT_CHARACTERS // 2
        shown = f"{text[:half]} [...] {text[-half:]}"
    return shown.encode("utf-8", "replace").decode()


def spell_name(name: str) -> str:
    """A name or an id as text that can be written: half a surrogate pair, and a byte of a file's name that is no UTF-8,
    become an escape such as ``\\udcb7``, so that two names stay two."""
    return name if name.isascii() else name.encode("utf-8", "backslashreplace").decode()


def text_bytes(text: str) -> int:
    """The size of a text in UTF-8, in bytes, also where halves of surrogate pairs are in it."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def item_bytes(item: Document | Reject) -> int:
    """The size of an item's text as it was read, in bytes."""
    return item.size_bytes if isinstance(item, Reject) else text_bytes(item.text)
