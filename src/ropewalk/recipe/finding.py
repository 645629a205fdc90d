"""What is wrong with a recipe, or doubtful, and who says so."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Finding:
    """One rule that a recipe breaks."""

    level: Literal["error", "warning"]
    key: str
    message: str
    source: str
