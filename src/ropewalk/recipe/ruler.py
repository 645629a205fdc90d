"""Which of RULER's tasks are measured, on how many samples, and with whose text."""

from typing import Annotated

from pydantic import AfterValidator, Field

from ropewalk.core.quantity import PositiveCount
from ropewalk.core.spec import Spec
from ropewalk.probe.ruler_task import RULER_NAMES, RulerName, RulerTask
from ropewalk.recipe.refuse_repeats import refuse_repeats


class RulerSpec(Spec):
    """RULER at ``evaluate.lengths``: a model writes its answers (docs/ruler.md)."""

    tasks: Annotated[tuple[RulerName, ...], Field(min_length=1), AfterValidator(refuse_repeats)] = RULER_NAMES
    """Names of tasks; all 13 by default."""
    samples: PositiveCount = 100
    """Prompts per task and length; the benchmark has 500."""
    essays: str | None = None
    """A .txt file with essays for five needle tasks; null: plain sentences of ours."""
    squad: str | None = None
    """SQuAD's JSON file for ``qa_1``; null: questions about people whom we invent."""
    hotpot: str | None = None
    """HotpotQA's JSON file for ``qa_2``; null: likewise, in two steps."""
    example: bool = True
    """Whether ``vt`` and ``cwe`` begin with a solved example, as the original does; lm-eval gives ``cwe`` none."""
    threshold: float = Field(default=0.856, gt=0, lt=1)
    """The mean that an effective length must exceed: Llama 2 7B's at 4Ki."""

    @property
    def each_task(self) -> list[RulerTask]:
        """The tasks with their files."""
        questions = {"qa_1": self.squad, "qa_2": self.hotpot}
        return [
            RulerTask(task=task, essays=self.essays, questions=questions.get(task), example=self.example)
            for task in self.tasks
        ]
