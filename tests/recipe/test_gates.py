"""What ``stop`` and ``gate`` take."""

from typing import Any

import pytest
from pydantic import ValidationError

from ropewalk.recipe.gates import Stop
from ropewalk.recipe.learned import LEARNED
from ropewalk.recipe.stage import Stage


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"metric": "retrieval"}, "exactly one of value, saturated"),
        ({"metric": "retrieval", "value": 1, "saturated": 1}, "exactly one of value, saturated"),
        ({"metric": "retrieval", "saturated": 0.01}, "cannot be judged as saturated"),
        ({"metric": "held_out/full", "value": 1}, "is not an averaged metric"),
        ({"metric": "held_out/full", "saturated": 0}, "greater than 0"),
    ],
)
def test_a_stop_has_one_condition_that_its_metric_can_meet(given: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        Stop.model_validate({"max_steps": 10, **given})


def test_a_judged_metric_must_be_measured() -> None:
    stage = {"context_length": 64, "rope": {"kind": "unchanged"}, "tokens": 640, "step_tokens": 64, "lr": 1e-3}
    for name, (count, _, _) in LEARNED.items():
        stop = {"metric": f"held_out/{name}", "saturated": 0.01, "max_steps": 10}
        for validation in (None, {count: 0}):
            with pytest.raises(ValidationError, match=f"needs validation with {count} above 0"):
                Stage.model_validate({**stage, "stop": stop, "validation": validation})
        assert Stage.model_validate({**stage, "stop": stop, "validation": {"steps": 2}}).stop is not None


@pytest.mark.parametrize(
    ("stop_steps", "validation_steps", "interpolated", "judged"),
    [(8, 2, 0, 8), (7, 2, 0, 8), (100, 3, 0, 12), (10, 2, 3, 10), (10, 2, 5, 12), (10, 3, 1, 12)],
)
def test_saturation_must_be_judged_before_the_stage_ends(
    stop_steps: int, validation_steps: int, interpolated: int, judged: int
) -> None:
    """Ten steps by the tokens; ``judged`` is the step of the fourth validation that counts, by hand."""
    stage = {"context_length": 64, "rope": {"kind": "unchanged"}, "tokens": 640, "step_tokens": 64, "lr": 1e-3}
    stage |= {"stop": {"metric": "held_out/full", "saturated": 0.01, "max_steps": stop_steps}}
    stage |= {"validation": {"steps": validation_steps}, "rope_interpolation_steps": interpolated}
    if judged <= min(10, stop_steps):
        assert Stage.model_validate(stage).steps >= judged
    else:
        with pytest.raises(ValidationError, match=f"are done after {judged} steps, and the stage ends after"):
            Stage.model_validate(stage)
