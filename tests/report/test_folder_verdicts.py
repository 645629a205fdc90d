"""The verdicts on a folder beside its base are those of a report, and what has none is named with its reason."""

from typing import Any

import pytest

from ropewalk.core.record import Score
from ropewalk.report.folder_verdicts import describe_verdicts, judge_folder


def score(task: str, value: float, low: float, high: float, **changes: Any) -> Score:
    facts = {"model": "model", "metric": "accuracy", "context_tokens": 512, "depth": None, "language": None, "n": 100}
    return Score(task=task, value=value, low=low, high=high, **{**facts, "samples": 40, **changes})


SCORES = [
    score("retrieval/key_value", 0.99, 0.96, 1.0),
    score("retrieval/key_value", 0.1, 0.0, 0.2, model="base"),
    score("retrieval/key_value", 0.1, 0.0, 0.2, depth=0.5),
    score("retrieval/key_value", 0.5, 0.4, 0.6, context_tokens=2048),
    score("change/foreign_worst", 0.012, 0.004, 0.02, metric="change"),
]


def test_each_measure_passes_fails_is_undecided_or_was_not_measured() -> None:
    verdicts, missing = judge_folder(SCORES, base_tokens=512, model_tokens=2048)
    assert [(each.key, each.outcome) for each in verdicts] == [
        ("retrieval/1x", "met"),
        ("retrieval/4x", "missed"),
        ("foreign/worst", "undecided"),
    ]
    assert list(describe_verdicts(verdicts, missing)) == [
        "retrieval at 1x (512): pass, 99.0 % [96.0, 100.0], n = 40, target ≥ 95 %",
        "retrieval at 4x (2Ki): FAIL, 50.0 % [40.0, 60.0], n = 40, target ≥ 95 %",
        "forgetting: loss on text outside the mix, worst text: undecided, the target lies inside the 95 % interval: "
        "+1.2 % [+0.4, +2.0], n = 40, target ≤ +1 %",
        *missing,
    ]
    assert [line.partition(":")[0] for line in missing] == ["context gain", "short-context loss"]


@pytest.mark.parametrize(
    ("left_out", "named"), [("change/foreign_worst", "forgetting"), ("retrieval/key_value", "retrieval at 4x")]
)
def test_what_was_not_measured_is_named(left_out: str, named: str) -> None:
    left = [each for each in SCORES if each.task != left_out]
    _, missing = judge_folder(left, base_tokens=512, model_tokens=2048)
    assert any(line.startswith(named) and "not measured, " in line for line in missing)
    verdicts, missing = judge_folder([], base_tokens=512, model_tokens=512)
    assert verdicts == [] and len(missing) == 4
