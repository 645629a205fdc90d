"""One finding about a recipe: an error or a warning, with its key and its source."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Finding:
    """One rule that a recipe breaks."""

    level: Literal["error", "warning"]
    key: str
    message: str
    source: str
