"""Forgetting in a report: a target of its own, with the text's name, and a section with all three models."""

from dataclasses import replace
from pathlib import Path

import pytest

from ropewalk.core.record import Score, read_scores, write_scores
from ropewalk.report.contents import read_run
from ropewalk.report.page import summarise
from ropewalk.report.source_losses import make_forgetting
from ropewalk.report.target import Outcome
from ropewalk.report.verdict import judge_measures

LOSSES = {"foreign/law": 3.0, "foreign/poems": 4.0, "ability/arithmetic": 2.0}


def add_foreign(run: Path, *, worst: float, half: float) -> None:
    scores = read_scores(run / "scores.json")
    one = next(score for score in scores if score.task == "short/topics")

    def make(model: str, task: str, value: float, half: float = 0.0) -> Score:
        return replace(one, model=model, task=task, value=value, low=value - half, high=value + half)

    for model in ("base", "zero-shot", "extended"):
        scores += [make(model, task, value) for task, value in LOSSES.items()]
        if model != "base":
            scores += [make(model, f"change/{task}", 0.001, 0.0005) for task in LOSSES]
            scores += [make(model, "change/foreign_worst", 0.09)]  # of another text than the trained model's
    trained = [score for score in scores if score.model != "extended" or "foreign" not in score.task]
    trained += [make("extended", task, value) for task, value in LOSSES.items() if "foreign" in task]
    trained += [make("extended", "change/foreign/law", 0.0), make("extended", "change/foreign/poems", worst, half)]
    write_scores(run / "scores.json", [*trained, make("extended", "change/foreign_worst", worst, half)])


@pytest.mark.parametrize(
    ("worst", "half", "outcome"),
    [(0.05, 0.01, "missed"), (0.012, 0.004, "undecided"), (0.002, 0.001, "met")],
)
def test_the_worst_text_is_a_target(run: Path, worst: float, half: float, outcome: Outcome) -> None:
    before = summarise(run)
    assert make_forgetting(read_run(run)) is None and "forgetting" not in before["text"]
    add_foreign(run, worst=worst, half=half)
    after = summarise(run)
    assert after["targets_set"] == before["targets_set"] + 1
    assert after[f"targets_{outcome}"] == before[f"targets_{outcome}"] + 1
    (line,) = [line for line in after["text"].splitlines() if line.startswith("forgetting")]
    assert "worst text (poems)" in line and "≤ +1 %" in line
    shown = [
        each for each in judge_measures(read_run(run)) if each.key == "foreign/worst" and each.model == "zero-shot"
    ]
    assert [each.value for each in shown] == [0.001], "the same text as the trained model's worst"
    section = make_forgetting(read_run(run))
    assert section is not None and [row[0] for row in section.tables[0].rows] == ["law", "poems"]
    assert section.tables[0].columns[3:6] == ["base", "zero-shot", "extended"]
    assert [row[0] for row in section.tables[1].rows] == ["arithmetic"]
