"""The input of ``ropewalk advise``: a target length, one more candidate, and limits on the text that a probe reads."""

from ropewalk.core.quantity import PositiveCount
from ropewalk.core.spec import Spec
from ropewalk.rope.scaling import Rope


class AdviceSpec(Spec):
    """The overrides of ``ropewalk advise MODEL``."""

    context_length: PositiveCount
    """The target, in tokens."""
    rope: Rope | None = None
    """A method to be shown beside the usual candidates."""
    documents: PositiveCount = 8
    """Texts of the target's length that a probe reads with each candidate."""
    answers: PositiveCount = 40
    """Teacher-forced answers that a probe asks at each length."""
    seed: int = 1_000_003
