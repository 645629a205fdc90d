"""The learning rate against values worked out by hand."""

import math
from itertools import pairwise

import pytest

from ropewalk.recipe.spec import Schedule
from ropewalk.train.schedule import learning_rate


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
