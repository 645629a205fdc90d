"""The measures of a stage's validations that a verdict on learning is made of, and that ``stop.saturated`` may name."""

from typing import NamedTuple

HELD_OUT = "held_out/"
FEWEST_VALIDATIONS = 4
"""Fewer than these give no trend."""


class Learned(NamedTuple):
    """One measure."""

    counted_by: str
    """The count of ``validation`` that measures it where it is above 0."""
    unit: str
    lower_is_better: bool


LEARNED = {
    "full": Learned("documents", "nats, a fall is a gain", True),
    "retrieval": Learned("answers", "share of right answers", False),
    "answer_loss": Learned("answers", "nats, a fall is a gain", True),
    "retrieval_heads": Learned("answers", "share of attention on the facts", False),
}
"""The measures by their names, which follow ``held_out/`` in metrics.jsonl."""
