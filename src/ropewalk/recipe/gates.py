"""The gates of a stage: when it ends, which steps are skipped, and the conditions for the next stage."""

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator

from ropewalk.core.quantity import Count, PositiveCount
from ropewalk.core.spec import Spec

_METRIC = re.compile(r"retrieval|(loss|accuracy)/(source|role|language|position|length)/.+")
Share = Annotated[float, Field(gt=0, le=1)]


class Until(Spec):
    """End a stage as soon as a metric, averaged since the last panel, reaches a value."""

    metric: str
    """``retrieval``, or ``loss/...`` or ``accuracy/...`` as a panel's rows are named, such as ``loss/source/law``."""
    value: float
    """What ends the stage: accuracy from here up, a loss from here down."""
    max_steps: PositiveCount
    """Steps after which the stage ends all the same."""

    @field_validator("metric")
    @classmethod
    def _check_metric(cls, given: str) -> str:
        if not _METRIC.fullmatch(given):
            raise ValueError(f"{given!r} is no metric of a panel: retrieval, or loss/... or accuracy/...")
        return given


class Guard(Spec):
    """Which steps are skipped although they are finite, and what too many skipped steps lead to (docs/train.md)."""

    spike: float | None = Field(default=12.0, gt=0)
    """Deviations above the median of the recent steps from which a loss or gradient norm is a spike; null: none is."""
    window: PositiveCount = 128
    """Recent steps: those that a step is compared with, and among which skips are counted."""
    skips: Count = 10
    """Skipped steps among the recent ones that are borne; one more, and the stage goes back to a checkpoint."""
    rollbacks: Count = 2
    """How often a stage may go back before it ends in an error."""


class Promotion(Spec):
    """What a stage's model must be before the next one builds on it; a gate that is null is not asked.

    A gate whose limit lies inside the interval of what was measured is undecided: it warns, and stops a strict recipe.
    """

    window_loss: float | None = None
    """Nats that the loss may lie above that of the model before, in the last quarter of that one's window."""
    retrieval: Share | None = None
    """Least share of right answers at the stage's length."""
    short_loss: float | None = None
    """Share that the loss at the base's own context may lie above the base's, in the worst source: 0.03 is 3 %."""
    otherwise: Literal["stop", "warn"] = "stop"
    """What a missed gate does: end the run with an error, or warn and go on."""
    answers: PositiveCount = 200
    """Teacher-forced answers that are asked."""
    documents: PositiveCount = 16
    """Held-out documents that are read."""
    short_tokens: PositiveCount = 16384
    """How much is asked, as in ``evaluate``."""
