"""Whether torchrun started this process, and as which one: asked before torch is imported."""

import os


def is_started() -> bool:
    """Whether torchrun started this process."""
    return "RANK" in os.environ


def is_first() -> bool:
    """Whether this process speaks for all: the only one, or torchrun's rank 0."""
    return os.environ.get("RANK", "0") == "0"
