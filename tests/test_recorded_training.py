"""Text, mix, positions and training give what they gave when it was recorded (recorded_training.py)."""

import json
from pathlib import Path

from recorded_training import RECORDED, describe, find_difference, make_run


def test_a_whole_training_gives_what_was_recorded(tmp_path: Path) -> None:
    recorded = json.loads(RECORDED.read_text())
    assert find_difference(describe(make_run(tmp_path)), recorded) == "", "if this is meant: see recorded_training.py"


def test_any_value_that_differs_is_found() -> None:
    value = {"mix": 7, "loss": [5.0, 4.0], "store": ["a"]}
    assert find_difference({**value, "loss": [5.0, 4.00003]}, value) == ""
    assert find_difference({**value, "loss": [5.0, 4.0001]}, value) == "/loss/1: 4.0001, recorded 4.0"
    for change in ({"mix": 8}, {"loss": [5.0]}, {"store": ["b"]}, {"more": 1}):
        assert find_difference({**value, **change}, value), change
