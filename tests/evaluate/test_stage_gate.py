"""Gates: what they read from scores, what they say, and that they stop a programme or let it go on."""

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest

from ropewalk.core.error import UserError
from ropewalk.core.record import Score
from ropewalk.evaluate import stage_gate
from ropewalk.evaluate.stage_gate import GateVerdict, judge_gates, read_verdicts, refuse_missed_gate, spell_verdicts
from ropewalk.recipe.gates import Gate
from ropewalk.recipe.spec import EvaluateSpec


def score(model: str, task: str, value: float, n: int = 10, half: float = 0.0) -> Score:
    return Score(model, task, "any", 1024, None, None, n, value, value - half, value + half, 5)


SCORES = [
    score("before", "change/nll/base", -9.0),
    score("trained", "change/nll/base", 9.0),
    score("trained", "change/nll/before", 0.05),
    score("trained", "retrieval/key_value", 0.5, n=30),
    score("trained", "retrieval/key_value", 0.9, n=10),
    score("before", "change/short/law", 7.0),
    score("trained", "change/short/law", 0.01),
    score("trained", "change/short/code", 0.04),
]


def test_each_gate_reads_its_figure() -> None:
    asked = Gate(window_loss=0.06, retrieval=0.6, short_loss=0.03)
    window, retrieval, short = judge_gates(asked, SCORES, before="before")
    assert (window.value, window.met) == (pytest.approx(0.05), True)
    assert (retrieval.value, retrieval.met) == (pytest.approx(0.6), True), "the mean over answers, not over lines"
    assert (short.value, short.met) == (0.04, False) and "worst in code" in short.text
    assert "n = 5" in window.text and "[0.05, 0.05]" in window.text
    assert [verdict.gate for verdict in judge_gates(Gate(retrieval=0.7), SCORES, before="base")] == ["retrieval"]


@pytest.mark.parametrize(("half", "met"), [(0.005, True), (0.05, None), (0.2, None)])
def test_a_limit_inside_the_interval_is_undecided(half: float, met: bool | None) -> None:
    scores = [
        score("trained", "change/nll/base", 0.05, half=half),
        score("trained", "retrieval/key_value", 0.82, half=half),
        score("trained", "change/short/law", 0.01, half=half),
        score("trained", "change/short/code", 0.012),  # the larger one, and met: it hides nothing
    ]
    verdicts = list(judge_gates(Gate(window_loss=0.06, retrieval=0.8, short_loss=0.02), scores, before="base"))
    assert [verdict.met for verdict in verdicts] == [met] * 3
    refuse_missed_gate(verdicts, stage=1, path=Path("gate.json"))
    if met is None:
        assert verdicts[0].outcome == "WARNING: undecided" and "worst in law" in verdicts[2].text
        with pytest.raises(UserError, match="does not pass its gate"):
            refuse_missed_gate(verdicts, stage=1, path=Path("gate.json"), strict=True)


def test_a_gate_measures_what_it_judges_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """The final evaluation may ask for hours of other tasks: no gate reads them, after any stage."""
    final = EvaluateSpec.model_validate(
        {"grid": {}, "ruler": {}, "context_law": True, "abilities": 8, "probes": [{"kind": "passkey"}],
         "foreign": [{"name": "essays", "embedded": "essays_en"}],
         "benchmarks": [{"kind": "longbench_v2", "path": "longbench.json"}]}
    )  # fmt: skip
    left = {"grid": None, "ruler": None, "context_law": False, "abilities": 0, "probes": (), "foreign": (),
            "benchmarks": ()}  # fmt: skip
    asked: list[EvaluateSpec] = []

    def measure(models: Mapping[str, Path], spec: EvaluateSpec, **_: object) -> list[Score]:
        asked.append(spec)
        return SCORES

    monkeypatch.setattr(stage_gate, "evaluate_models", measure)
    monkeypatch.setattr(stage_gate, "read_shape", lambda folder: SimpleNamespace(context_tokens=512))
    models = {"base": Path("base"), "trained": Path("trained")}
    for gate in (Gate(retrieval=0.6), Gate(retrieval=0.6, foreign_loss=0.01)):
        assert stage_gate.measure_gate(gate, final, models=models, reach_tokens=2048, corpus=Path("corpus"))
    plain, foreign = asked
    assert plain.lengths == (4,)
    stage_gate.measure_gate(Gate(retrieval=0.6), final, models=models, reach_tokens=768, corpus=Path("corpus"))
    assert asked[-1].lengths == (1.5,), "the length that the stage trained for, not the next one below"
    assert {name: getattr(plain, name) for name in left} == left
    assert foreign == plain.model_copy(update={"foreign": final.foreign})
    # A key that turns a measurement on is off by default: a new one must be thought of here.
    off = {name for name, field in EvaluateSpec.model_fields.items() if field.default in (None, False, 0, ())}
    assert off == set(left)


def test_what_could_not_be_measured_is_not_met() -> None:
    verdicts = list(judge_gates(Gate(window_loss=1, retrieval=0.1, short_loss=1), [], before="base"))
    assert [(verdict.value, verdict.met) for verdict in verdicts] == [(None, False)] * 3
    assert all("not measured" in verdict.text for verdict in verdicts)


def test_verdicts_come_back_and_a_missed_one_stops(tmp_path: Path) -> None:
    verdicts = [GateVerdict("retrieval", 0.5, 0.8, False, "too few"), GateVerdict("short_loss", 0.0, 0.1, True, "fine")]
    verdicts.append(GateVerdict("window_loss", 0.0, 0.1, None, "hazy"))
    path = tmp_path / "gate.json"
    path.write_text(spell_verdicts(verdicts))
    assert read_verdicts(path) == verdicts
    with pytest.raises(UserError, match="stage 2 does not pass its gate") as raised:
        refuse_missed_gate(verdicts, stage=2, path=path)
    assert "too few" in raised.value.why and "fine" not in raised.value.why
    refuse_missed_gate(verdicts[1:], stage=2, path=path)
