"""Resume a stage from a checkpoint, where the end of the stage may have changed: more steps, another ``stop``.

The steps already taken must be those of the current recipe, so their learning rates are compared. The warm-up keeps its
length in steps, although the recipe gives it as a share of all steps.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ropewalk.checkpoint.load import load_checkpoint
from ropewalk.checkpoint.state import TrainState
from ropewalk.recipe.stage import Stage
from ropewalk.train.learning_rate import RATES, STOP, Rates, rates_of, refuse_rates


def describe_stage_plan(spec: Stage) -> dict[str, Any]:
    """Return the plan of a stage that begins, as a checkpoint stores it: its learning rates and its ``stop``."""
    stop = None if spec.stop is None else spec.stop.model_dump(mode="json", exclude_none=True)
    return {RATES: rates_of(spec).to_json(), STOP: stop}


def go_on(fresh: TrainState, checkpoint: Path) -> TrainState:
    """Load ``checkpoint`` into ``fresh``, a stage at its first step, and continue by the plan of ``fresh``.

    Every rank must call it. Raises UserError where steps already taken would have other learning rates by this plan.
    """
    return follow_plan(load_checkpoint(fresh, checkpoint), fresh.plan)


def follow_plan(state: TrainState, plan: Mapping[str, Any]) -> TrainState:
    """Return a loaded state with the current ``plan`` instead of its own.

    If the end of the stage has changed, the state no longer counts as ended. Raises UserError where steps already taken
    would have other learning rates by ``plan``.
    """
    before = Rates.from_json(state.plan[RATES])
    now = Rates.from_json(plan[RATES]).continuing(before)
    if now.first_change(before, taken=state.step) is not None:
        raise refuse_rates(now, before, taken=state.step, where=f"stages.{state.stage}")
    ended = state.ended
    if state.step >= now.steps:
        ended = ended or "limit"
    elif ended == "limit" or plan[STOP] != state.plan[STOP]:
        ended = ""
    return dataclasses.replace(state, plan={**plan, RATES: now.to_json()}, ended=ended)
