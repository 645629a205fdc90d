"""Gates: what they read from scores, what they say, and that they stop a programme or let it go on."""

from pathlib import Path

import pytest

from ropewalk.core.error import UserError
from ropewalk.core.record import Score
from ropewalk.recipe.gates import Promotion
from ropewalk.train.promotion import Verdict, judge, read_verdicts, refuse_promotion, spell_verdicts


def score(model: str, task: str, value: float, n: int = 10) -> Score:
    return Score(model, task, "any", 1024, None, None, n, value, value, value)


SCORES = [
    score("base", "nll/position/768-1024", 9.0),
    score("before", "nll/position/0-256", 1.0),
    score("before", "nll/position/768-1024", 3.0),
    score("trained", "nll/position/0-256", 9.0),
    score("trained", "nll/position/768-1024", 3.05),
    score("trained", "retrieval/key_value", 0.5, n=30),
    score("trained", "retrieval/key_value", 0.9, n=10),
    score("before", "change/short/law", 7.0),
    score("trained", "change/short/law", 0.01),
    score("trained", "change/short/code", 0.04),
]


def test_each_gate_reads_its_figure() -> None:
    asked = Promotion(window_loss=0.06, retrieval=0.6, short_loss=0.03)
    window, retrieval, short = judge(asked, SCORES, before="before")
    assert (window.value, window.met) == (pytest.approx(0.05), True)
    assert (retrieval.value, retrieval.met) == (pytest.approx(0.6), True), "the mean over answers, not over lines"
    assert (short.value, short.met) == (0.04, False) and "worst in code" in short.text
    assert [verdict.gate for verdict in judge(Promotion(retrieval=0.7), SCORES, before="base")] == ["retrieval"]


def test_what_could_not_be_measured_is_not_met() -> None:
    verdicts = list(judge(Promotion(window_loss=1, retrieval=0.1, short_loss=1), [], before="base"))
    assert [(verdict.value, verdict.met) for verdict in verdicts] == [(None, False)] * 3
    assert all("not measured" in verdict.text for verdict in verdicts)


def test_verdicts_come_back_and_a_missed_one_stops(tmp_path: Path) -> None:
    verdicts = [Verdict("retrieval", 0.5, 0.8, False, "too few"), Verdict("short_loss", 0.0, 0.1, True, "fine")]
    path = tmp_path / "promotion.json"
    path.write_text(spell_verdicts(verdicts))
    assert read_verdicts(path) == verdicts
    with pytest.raises(UserError, match="stage 2 is not promoted") as raised:
        refuse_promotion(verdicts, stage=2, path=path)
    assert "too few" in raised.value.why and "fine" not in raised.value.why
    refuse_promotion(verdicts[1:], stage=2, path=path)
