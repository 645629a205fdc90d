"""The supported trackers, and a check, before any training, that those of a recipe are installed."""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Literal

from ropewalk.core.error import UserError

Tracker = Literal["tensorboard", "wandb", "trackio", "mlflow", "swanlab"]
"""Each name is the name of the tracker's package."""


def require_trackers(names: Sequence[Tracker]) -> None:
    """Raise UserError if the package of a tracker is missing; nothing is imported."""
    for name in names:
        if find_spec(name) is None:
            raise UserError(
                f"the tracker {name} is not installed",
                where="trackers",
                why=f"there is no package {name} in this Python",
                fix=f"pip install 'ropewalk[track]' (all of them) or {name} alone, or remove it from the recipe",
            )
