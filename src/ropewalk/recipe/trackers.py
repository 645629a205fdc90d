"""Which trackers there are, and whether those that a recipe names are installed: asked before anything is trained."""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Literal

from ropewalk.core.error import UserError

Tracker = Literal["tensorboard", "wandb", "trackio", "mlflow", "swanlab"]
"""Each is called as its package is."""


def require_trackers(names: Sequence[Tracker]) -> None:
    """Raise UserError for a tracker whose package is missing; nothing is imported."""
    for name in names:
        if find_spec(name) is None:
            raise UserError(
                f"the tracker {name} is not installed",
                where="trackers",
                why=f"there is no package {name} in this Python",
                fix=f"pip install 'ropewalk[track]' (all of them) or {name} alone, or take it out of the recipe",
            )
