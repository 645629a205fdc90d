"""Which cells of position x filler x length are measured."""

from typing import Annotated

from pydantic import AfterValidator, Field

from ropewalk.core.quantity import PositiveCount
from ropewalk.core.spec import Spec
from ropewalk.probe.grid_prompt import GRID_TASKS, FillerName, GridTaskName
from ropewalk.probe.prompt import Language
from ropewalk.recipe.refuse_repeats import refuse_repeats


class GridSpec(Spec):
    """Three tasks at ``evaluate.lengths`` and ``evaluate.depths``, in several kinds of filler (docs/probe.md)."""

    tasks: Annotated[tuple[GridTaskName, ...], Field(min_length=1), AfterValidator(refuse_repeats)] = GRID_TASKS
    """``lookup`` of one fact, ``two_hops`` over two, the ``latest`` of three values."""
    fillers: Annotated[tuple[FillerName, ...], Field(min_length=1), AfterValidator(refuse_repeats)] = (
        *("repeated", "sentences", "facts"),
    )
    """``repeated``: one sentence again and again; plain ``sentences``; ``words`` without order; ``facts`` that look
    like the asked one."""
    prompts: PositiveCount = 20
    """Samples for each task and length; each is read in every filler and at every depth."""
    language: Language = "en"
    """Of the prompts."""
