"""From a checkpoint on, in a stage whose end may have been moved since: more steps, another ``until``.

What was learnt must be what the recipe would have taught: the rates of the steps taken are compared, and the warm-up
stays as long as it was begun, although it is a share of the steps.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ropewalk.checkpoint.load import load
from ropewalk.checkpoint.state import TrainState
from ropewalk.recipe.stage import Stage
from ropewalk.train.schedule import RATES, UNTIL, Rates, rates_of, refuse_rates


def plan_stage(spec: Stage) -> dict[str, Any]:
    """How a stage that begins is to go on and end, as a checkpoint keeps it."""
    until = None if spec.until is None else spec.until.model_dump(mode="json")
    return {RATES: rates_of(spec).to_json(), UNTIL: until}


def go_on(fresh: TrainState, checkpoint: Path) -> TrainState:
    """``load`` into a stage that was just begun, by the plan that it began with. Every rank calls it.

    Raises UserError where steps that were taken would have had other rates.
    """
    return follow_plan(load(fresh, checkpoint), fresh.plan)


def follow_plan(state: TrainState, plan: Mapping[str, Any]) -> TrainState:
    """A state that was loaded, with the plan of now instead of its own; an end that was moved is no end any more."""
    before = Rates.from_json(state.plan[RATES])
    now = Rates.from_json(plan[RATES]).continuing(before)
    if now.first_change(before, taken=state.step) is not None:
        raise refuse_rates(now, before, taken=state.step, where=f"stages.{state.stage}")
    ended = state.ended
    if state.step >= now.steps:
        ended = ended or "limit"
    elif ended == "limit" or plan[UNTIL] != state.plan[UNTIL]:
        ended = ""
    return dataclasses.replace(state, plan={**plan, RATES: now.to_json()}, ended=ended)
