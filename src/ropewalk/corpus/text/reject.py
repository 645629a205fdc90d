"""Something that should have become a document of the corpus and did not: why, where it stood, and how it began.

Every one is a line in its store's ``rejects.jsonl`` and an amount in the ledger, under its reason.
"""

import json
from dataclasses import dataclass

from ropewalk.core.record import Document

EXCERPT_CHARACTERS = 400


@dataclass(frozen=True, slots=True)
class Reject:
    """``reason`` is what the ledger counts by, ``why`` the figure or fault behind it, ``place`` file, line and byte."""

    id: str
    reason: str
    size_bytes: int
    why: str = ""
    place: str = ""
    excerpt: str = ""

    def to_line(self) -> str:
        """The reject as a line of JSON."""
        entry = {"id": self.id, "dropped": self.reason, "why": self.why, "place": self.place, "bytes": self.size_bytes}
        return json.dumps({**entry, "text": self.excerpt}, ensure_ascii=False) + "\n"


def excerpt(text: str) -> str:
    """How a text begins, and how it ends where that is far: what a person needs to judge a drop."""
    if len(text) <= EXCERPT_CHARACTERS:
        shown = text
    else:
        half = EXCERPT_CHARACTERS // 2
        shown = f"{text[:half]} [...] {text[-half:]}"
    return shown.encode("utf-8", "replace").decode()


def text_bytes(text: str) -> int:
    """How much a text is in UTF-8."""
    return len(text) if text.isascii() else len(text.encode())


def item_bytes(item: Document | Reject) -> int:
    """How much text an item is, as it was read."""
    return item.size_bytes if isinstance(item, Reject) else text_bytes(item.text)
