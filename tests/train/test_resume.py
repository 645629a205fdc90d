"""A stage whose end was moved goes on, one whose end stands does not, and no step that was taken changes its rate."""

import dataclasses
from typing import Any

import pytest
import torch

from ropewalk.checkpoint.state import TrainState
from ropewalk.core.error import UserError
from ropewalk.recipe.stage import Stage
from ropewalk.train.learning_rate import RATES, Rates, rates_of
from ropewalk.train.resume import describe_stage_plan, follow_plan
from tiny_run import make_recipe

UNTIL = {"metric": "loss/source/plain", "value": 1.0, "max_steps": 8}


def make_stage(**changes: Any) -> Stage:
    return make_recipe(**{"schedule": {"shape": "constant", "warmup": 0.25}, **changes}).stages[0]


def state_at(step: int, spec: Stage, *, ended: str) -> TrainState:
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.AdamW(model.parameters())
    return TrainState(model, optimizer, stage=0, step=step, ended=ended, plan=describe_stage_plan(spec))


@pytest.mark.parametrize(
    ("before", "now", "step", "ended", "after"),
    [
        ({}, {}, 8, "limit", "limit"),
        ({}, {"tokens": 16 * 256}, 8, "limit", ""),
        ({}, {"tokens": 5 * 256}, 5, "", "limit"),
        ({"stop": UNTIL}, {"stop": UNTIL}, 3, "solved", "solved"),
        ({"stop": UNTIL}, {"stop": {**UNTIL, "value": 0.5}}, 3, "solved", ""),
        ({"stop": UNTIL}, {}, 3, "solved", ""),
    ],
    ids=["as it was", "longer", "shorter, not yet there", "solved", "solved, asked for more", "no until any more"],
)
def test_an_end_that_was_moved_is_no_end(
    before: dict[str, Any], now: dict[str, Any], step: int, ended: str, after: str
) -> None:
    state = follow_plan(state_at(step, make_stage(**before), ended=ended), describe_stage_plan(make_stage(**now)))
    assert state.ended == after and state.step == step


def test_a_warm_up_keeps_the_steps_that_it_began_with() -> None:
    longer = describe_stage_plan(make_stage(tokens=32 * 256))
    state = follow_plan(state_at(8, make_stage(), ended="limit"), longer)
    assert Rates.from_json(state.plan[RATES]).warmup_steps == 2 and Rates.from_json(longer[RATES]).warmup_steps == 8
    again = follow_plan(dataclasses.replace(state, step=20), longer)
    assert Rates.from_json(again.plan[RATES]) == Rates.from_json(state.plan[RATES])


@pytest.mark.parametrize("shape", ["cosine", "linear", "constant", "wsd"])
def test_what_is_compared_are_the_rates_of_the_steps_taken(shape: str) -> None:
    schedule = {"shape": shape, "warmup": 0.0, "decay": 0.25}
    short, long = (rates_of(make_stage(schedule=schedule, tokens=steps * 256)) for steps in (8, 16))
    kept = {"cosine": 0, "linear": 0, "constant": 8, "wsd": 6}[shape]
    assert [long.first_change(short, taken=taken) for taken in range(9)] == [
        None if taken <= kept else kept for taken in range(9)
    ]
    assert short.plateau_steps == (6 if shape == "wsd" else None)
    with pytest.raises(UserError, match="the recipe now has 8"):
        follow_plan(
            state_at(12, make_stage(schedule=schedule, tokens=16 * 256), ended=""),
            describe_stage_plan(make_stage(schedule=schedule)),
        )
