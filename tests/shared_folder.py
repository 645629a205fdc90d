"""Where small inputs and golden values lie that are not part of the project; tests that want them skip without it."""

from pathlib import Path

SHARED = Path(__file__).parents[2] / "shared"
