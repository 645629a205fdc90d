"""One finding about a recipe: an error or a warning, with its key, its source and what to change."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Finding:
    """One rule that a recipe breaks. ``fix`` is the next thing to try; empty where the message says it."""

    level: Literal["error", "warning"]
    key: str
    message: str
    source: str
    fix: str = ""

    def __str__(self) -> str:
        """The finding for people: one line, and the fix on a second one."""
        told = (
            f"error: {self.key}: {self.message} ({self.source})"
            if self.level == "error"
            else f"warning: {self.key}: {self.message} ({self.source})"
        )
        return f"{told}\n  fix: {self.fix}" if self.fix else told
