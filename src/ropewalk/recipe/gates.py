"""When a stage stops, which of its steps are skipped, and its gate: the conditions for the next stage."""

import re
from typing import Annotated, Literal

from pydantic import Field, model_validator

from ropewalk.core.quantity import Count, PositiveCount
from ropewalk.core.spec import Spec
from ropewalk.recipe.learned import HELD_OUT, LEARNED

_METRIC = re.compile(r"retrieval|(loss|accuracy)/(source|role|language|position|length)/.+")
Share = Annotated[float, Field(gt=0, le=1)]
CONDITIONS = ("window_loss", "retrieval", "short_loss", "foreign_loss")
"""The keys of a gate that are conditions."""


class Stop(Spec):
    """End a stage as soon as a metric, averaged over the last ``log_steps`` steps, reaches a value; or as soon as a
    metric of the validations is saturated."""

    metric: str
    """``retrieval``, or ``loss/...`` or ``accuracy/...`` as averaged metrics are named, such as ``loss/source/law``;
    with ``saturated`` ``held_out/full``, ``held_out/retrieval``, ``held_out/answer_loss`` or
    ``held_out/retrieval_heads``."""
    value: float | None = None
    """The stage ends where an accuracy is at least this, or a loss at most this."""
    saturated: float | None = Field(default=None, gt=0)
    """The stage ends where the last five validations (four at least) show, against their noise, that the metric gains
    less than this over them."""
    max_steps: PositiveCount
    """Steps after which the stage ends all the same."""

    @property
    def measure(self) -> str | None:
        """The name of the validations' measure; None for an averaged metric."""
        return self.metric.removeprefix(HELD_OUT) if self.metric.startswith(HELD_OUT) else None

    @model_validator(mode="after")
    def _check_metric(self) -> "Stop":
        if (self.value is None) == (self.saturated is None):
            raise ValueError("give exactly one of value, saturated")
        if self.saturated is not None and self.measure not in LEARNED:
            judged = ", ".join(f"{HELD_OUT}{name}" for name in LEARNED)
            raise ValueError(f"{self.metric!r} cannot be judged as saturated; give one of {judged}")
        if self.value is not None and not _METRIC.fullmatch(self.metric):
            raise ValueError(f"{self.metric!r} is not an averaged metric; give retrieval, or loss/... or accuracy/...")
        return self


class Guard(Spec):
    """Which steps are skipped although they are finite, and what too many skipped steps lead to (docs/train.md)."""

    spike: float | None = Field(default=12.0, gt=0)
    """Deviations above the median of the recent steps from which a loss or gradient norm is a spike; null: none is."""
    window: PositiveCount = 128
    """Recent steps: those that a step is compared with, and among which skipped steps are counted."""
    skipped_steps: Count = 10
    """Skipped steps that are allowed among the recent ones; at one more, the stage goes back to a checkpoint."""
    rollbacks: Count = 2
    """How often a stage may go back before it ends in an error."""


class Gate(Spec):
    """The conditions that a stage's model must meet before the next stage builds on it; null means no condition.

    A condition whose limit lies inside the interval of the measured value is undecided: it warns, and it stops a strict
    recipe.
    """

    window_loss: float | None = None
    """Nats that the loss may lie above that of the model before, in the last quarter of that one's window."""
    retrieval: Share | None = None
    """Least share of right answers at the stage's length."""
    short_loss: float | None = None
    """Share that the loss at the base's own context may lie above the base's, in the worst source: 0.03 is 3 %."""
    foreign_loss: float | None = None
    """Share that the loss on ``evaluate.foreign`` may lie above the base's, in the worst text: 0.01 is 1 %."""
    otherwise: Literal["stop", "warn"] = "stop"
    """What happens if a condition is missed: the run ends with an error, or it warns and goes on."""
    answers: PositiveCount = 200
    """Teacher-forced answers that are asked."""
    documents: PositiveCount = 16
    """Held-out documents that are read."""
    short_tokens: PositiveCount = 16384
    """How much is asked, as in ``evaluate``."""

    @model_validator(mode="after")
    def _check_conditions(self) -> "Gate":
        if all(getattr(self, name) is None for name in CONDITIONS):
            raise ValueError(f"a gate without a condition holds nothing back; give one of {', '.join(CONDITIONS)}")
        return self
