"""The learning rate against values worked out by hand, and against transformers' schedulers where those have it."""

import math
from itertools import pairwise

import pytest
import torch
from transformers.optimization import (
    get_constant_schedule_with_warmup,
    get_cosine_with_min_lr_schedule_with_warmup,
    get_linear_schedule_with_warmup,
    get_wsd_schedule,
)

from ropewalk.recipe.stage import Schedule
from ropewalk.train.learning_rate import learning_rate


def rates(steps: int = 100, **settings: object) -> list[float]:
    schedule = Schedule.model_validate(settings)
    return [learning_rate(step, schedule=schedule, peak=2.0, steps=steps) for step in range(steps)]


@pytest.mark.parametrize("shape", ["cosine", "linear", "constant", "wsd"])
def test_warm_up_reaches_the_peak_and_the_end_the_floor(shape: str) -> None:
    values = rates(shape=shape, warmup=0.1, floor=0.25)
    assert values[:10] == pytest.approx([0.2 * (step + 1) for step in range(10)])
    assert max(values) == 2.0
    assert values[-1] == pytest.approx(2.0 if shape == "constant" else 0.5)
    assert all(a >= b for a, b in pairwise(values[9:]))


def test_shapes_in_the_middle() -> None:
    assert rates(shape="cosine", warmup=0.0, floor=0.0)[49] == pytest.approx(1.0)
    assert rates(shape="cosine", warmup=0.0, floor=0.1)[24] == pytest.approx(2 * (0.1 + 0.9 * (1 + math.sqrt(0.5)) / 2))
    assert rates(shape="linear", warmup=0.0, floor=0.0)[24] == pytest.approx(1.5)
    stays = rates(shape="wsd", warmup=0.1, decay=0.2, floor=0.0)
    assert stays[10:80] == [2.0] * 70
    assert stays[89] == pytest.approx(1.0) and stays[-1] == 0.0


@pytest.mark.parametrize("shape", ["cosine", "linear", "constant", "wsd"])
def test_one_step_is_allowed(shape: str) -> None:
    assert rates(steps=1, shape=shape, warmup=0.02, floor=0.1)[0] > 0


@pytest.mark.parametrize("warmup", [0.0, 0.1])
@pytest.mark.parametrize(
    ("settings", "make", "theirs"),
    [
        ({"shape": "cosine", "floor": 0.1}, get_cosine_with_min_lr_schedule_with_warmup, {"min_lr_rate": 0.1}),
        ({"shape": "cosine", "floor": 0.0}, get_cosine_with_min_lr_schedule_with_warmup, {"min_lr_rate": 0.0}),
        ({"shape": "linear", "floor": 0.0}, get_linear_schedule_with_warmup, {}),
        ({"shape": "constant"}, get_constant_schedule_with_warmup, None),
        ({"shape": "wsd", "floor": 0.0}, get_wsd_schedule, {"decay_type": "linear"}),
        ({"shape": "wsd", "decay_shape": "cosine", "floor": 0.0}, get_wsd_schedule, {"decay_type": "cosine"}),
        ({"shape": "wsd", "decay_shape": "1-sqrt", "floor": 0.0}, get_wsd_schedule, {"decay_type": "1-sqrt"}),
    ],
)
def test_transformers_has_the_same_rates(warmup: float, settings: dict, make: object, theirs: dict | None) -> None:
    steps, rising = 100, round(100 * warmup)
    length = {} if theirs is None else {"num_training_steps": steps}
    if make is get_wsd_schedule:
        length["num_decay_steps"] = 20
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    scheduler = make(optimizer, num_warmup_steps=rising, **length, **(theirs or {}))
    expected = []
    for _ in range(steps):
        optimizer.step()
        scheduler.step()
        expected.append(scheduler.get_last_lr()[0])
    assert rates(**settings, warmup=warmup, decay=0.2) == pytest.approx(expected, abs=1e-9)
