"""What ``stop`` and ``gate`` take."""

from typing import Any

import pytest
from pydantic import ValidationError

from ropewalk.recipe.gates import JUDGED, Stop
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
    for metric, count in JUDGED.items():
        stop = {"metric": metric, "saturated": 0.01, "max_steps": 10}
        for validation in (None, {count: 0}):
            with pytest.raises(ValidationError, match=f"needs validation with {count} above 0"):
                Stage.model_validate({**stage, "stop": stop, "validation": validation})
        assert Stage.model_validate({**stage, "stop": stop, "validation": {}}).stop is not None
