"""Panels of held-out text are figures of the weights as they stand, and change nothing of the training."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ropewalk.core.record import TIMED, Metric, read_metrics
from ropewalk.parallel.launch import run_ranks
from ropewalk.recipe.spec import Recipe
from ropewalk.train.stage import train_stage
from ropewalk.train.validation import judge_validations
from tiny_run import make_recipe

NewRun = Callable[[str], Path]
Prepared = tuple[Path, Path]
PANEL = {"steps": 2, "documents": 4, "truncated_tokens": 16, "short_tokens": 300, "answers": 0}


def train(recipe: Recipe, run: Path, prepared: Prepared) -> list[Metric]:
    base = prepared[0] / "stages" / "0" / "extended"
    run_ranks(
        lambda: train_stage(recipe, stage=0, run=run, corpus=prepared[1], base=base), recipe.parallel.ranks, threads=1
    )
    return [row for row in read_metrics(run / "metrics.jsonl") if row.name not in TIMED]


@pytest.mark.parametrize(
    "parallel", [{"ranks": 2, "context_parallel": 2}, {"ranks": 2, "context_parallel": 1}], ids=["context", "data"]
)
def test_panels_tell_and_change_nothing(prepared: Prepared, new_run: NewRun, parallel: dict[str, Any]) -> None:
    short = {"tokens": 5 * 4 * 64, "parallel": parallel}
    plain = train(make_recipe(**short), new_run("plain"), prepared)
    run = new_run("panels")
    rows = train(make_recipe(validation=PANEL, **short), run, prepared)
    told = {(row.step, row.name): row.value for row in rows if row.name.startswith("held_out/")}
    assert [row for row in rows if not row.name.startswith("held_out/")] == plain
    assert {step for step, _ in told} == {2, 4, 5}, "every second step, and the last"
    for step in (2, 4, 5):
        assert told[step, "held_out/full-truncated"] == told[step, "held_out/full"] - told[step, "held_out/truncated"]
        for source in ("plain", "counted"):
            loss, change = told[step, f"held_out/short/{source}"], told[step, f"held_out/change/short/{source}"]
            base = json.loads((run / "stages" / "0" / "base-short-loss.json").read_text())[source]
            assert change == pytest.approx(loss / base - 1) and 0 < abs(change) < 0.5
    assert told[2, "held_out/short/plain"] != told[4, "held_out/short/plain"]


def test_figures_are_the_same_on_any_ranks_and_the_base_is_read_once(prepared: Prepared, new_run: NewRun) -> None:
    short = {"tokens": 2 * 4 * 64, "validation": {**PANEL, "documents": 3}}
    found = []
    for parallel in ({"ranks": 1, "context_parallel": 1}, {"ranks": 2, "context_parallel": 2}):
        run = new_run(f"ranks-{parallel['ranks']}")
        rows = train(make_recipe(**short, parallel=parallel), run, prepared)
        found.append({row.name: row.value for row in rows if row.name.startswith("held_out/")})
    assert found[1] == pytest.approx(found[0], rel=2e-4, abs=1e-5)
    kept = run / "stages" / "0" / "base-short-loss.json"
    kept.write_text(json.dumps({"plain": 1.0, "counted": 1.0}))
    again = new_run("again")
    (again / "stages" / "0" / "base-short-loss.json").write_text(kept.read_text())
    rows = {row.name: row.value for row in train(make_recipe(**short), again, prepared)}
    assert rows["held_out/change/short/plain"] == pytest.approx(rows["held_out/short/plain"] - 1)


def test_retrieval_is_one_of_them(prepared: Prepared, new_run: NewRun) -> None:
    panel = {**PANEL, "documents": 0, "short_tokens": 0, "answers": 20}
    recipe = make_recipe(context_length=512, step_tokens=1024, tokens=2048, validation=panel, log_steps=2)
    rows = train(recipe, new_run("asked"), prepared)
    assert [(row.step, row.unit) for row in rows if row.name == "held_out/retrieval"] == [(2, "share")]


def test_a_stage_ends_with_a_verdict_on_its_validations(
    prepared: Prepared, new_run: NewRun, capfd: pytest.CaptureFixture[str]
) -> None:
    for steps, told in ((2, False), (4, True)):
        recipe = make_recipe(
            tokens=steps * 4 * 64, validation={**PANEL, "steps": 1}, parallel={"ranks": 1, "context_parallel": 1}
        )
        train(recipe, new_run(f"steps-{steps}"), prepared)
        assert ("stage 0: held-out full (nats, a fall is a gain): " in capfd.readouterr().err) is told


def test_the_validation_at_the_end_counts_only_at_the_distance_of_the_others() -> None:
    rows = [
        Metric(stage, step, f"held_out/{name}", value, "")
        for stage, worse in ((0, 0.0), (1, 5.0))
        for step, loss in [*((20 * n, 2 - 0.1 * n + 0.001 * (-1) ** n) for n in range(1, 7)), (125, 9.0)]
        for name, value in (("full", loss + worse * step), ("retrieval", 0.9))
    ]
    full, retrieval = judge_validations(rows, stage=0, steps=20)
    assert "still learning, +0.4" in full and "over 5 checkpoints" in full
    assert "saturated, +0.0000 [+0.0000, +0.0000]" in retrieval
    assert not list(judge_validations(rows, stage=0, steps=40))


def test_retrieval_heads_are_followed_and_a_saturated_metric_ends_the_stage(
    prepared: Prepared, new_run: NewRun
) -> None:
    panel = {**PANEL, "steps": 1, "documents": 0, "short_tokens": 0, "answers": 20}
    stop = {"metric": "held_out/retrieval_heads", "saturated": 0.9, "max_steps": 6}  # no share gains so much
    short = {"context_length": 512, "step_tokens": 1024, "tokens": 8 * 1024, "validation": panel, "stop": stop}
    found = []
    for parallel in ({"ranks": 1, "context_parallel": 1}, {"ranks": 2, "context_parallel": 2}):
        run = new_run(f"heads-{parallel['ranks']}")
        rows = train(make_recipe(**short, parallel=parallel), run, prepared)
        found.append({(row.step, row.name): row.value for row in rows if row.name.startswith("held_out/")})
        assert max(row.step for row in rows) == 4, "four validations are the fewest that show a trend"
        assert [(row.step, row.value) for row in rows if row.name == "stage/solved"] == [(4, 1.0)]
        kept = json.loads((run / "stages" / "0" / "retrieval-heads.json").read_text())
        assert len(kept["heads"]) == 1 and 0 < kept["base_share"] < 1
    assert {name for _, name in found[0]} == {
        f"held_out/{name}" for name in ("retrieval", "answer_loss", "retrieval_heads")
    }
    assert found[1] == pytest.approx(found[0], rel=2e-3, abs=1e-5)
