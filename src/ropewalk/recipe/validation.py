"""The held-out text that a stage is measured on during training."""

from ropewalk.core.quantity import Count, PositiveCount
from ropewalk.core.spec import Spec


class Validation(Spec):
    """What is measured on held-out text every ``steps`` steps and at the stage's end. A count of 0 measures nothing."""

    steps: PositiveCount = 200
    """Steps between two validations."""
    documents: Count = 8
    """Long documents. They are read with full context up to the stage's length, and their last tokens also with
    truncated context."""
    truncated_tokens: PositiveCount | None = None
    """How many last tokens are compared, and their truncated context; null is the base's context."""
    short_tokens: Count = 8192
    """Held-out tokens per source at the base's own context; the base's loss on them is logged too."""
    answers: Count = 100
    """Teacher-forced answers at the stage's length."""
