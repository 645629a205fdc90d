"""The held-out text that a stage is measured on during training."""

from ropewalk.core.quantity import Count, PositiveCount
from ropewalk.core.spec import Spec


class Panel(Spec):
    """Figures that are asked of held-out text every ``steps`` steps, and when the stage ends; 0 asks for none."""

    steps: PositiveCount = 200
    """Steps from one asking to the next."""
    documents: Count = 8
    """Long documents, read to the stage's length and, for their last tokens, with near context only."""
    near_tokens: PositiveCount | None = None
    """How many last tokens are compared, and how much context they have left; null is the base's context."""
    short_tokens: Count = 8192
    """Per source, at the base's own context, beside the base's loss on the same tokens."""
    answers: Count = 100
    """Teacher-forced answers at the stage's length."""
