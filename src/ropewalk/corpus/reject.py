"""Something that should have become a document of the corpus and did not: why, where it stood, and how it began.

Every one is a line in its store's ``rejects.jsonl`` and an amount in the ledger, under its reason.
"""

import json
from dataclasses import dataclass

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
