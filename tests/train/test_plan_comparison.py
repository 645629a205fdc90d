"""After its third step a stage says how a step compares with its plan, and which term is off."""

from pathlib import Path

import pytest

from ropewalk.parallel.launch import run_ranks
from ropewalk.plan.step_time import StepTime
from ropewalk.train.plan_comparison import Measured, is_far, name_term
from ropewalk.train.stage import train_stage
from tiny_run import make_recipe, write_corpus, write_model

PLANNED = StepTime(
    products=1.0, attention_forward=0.2, attention_backward=0.4, elementwise=0.2, tiles=0, optimizer=0.1,
    messages=0.1, copies=0, fixed=0,
)  # fmt: skip


def test_the_term_with_the_largest_difference_is_named() -> None:
    slow = Measured(step_seconds=3.0, own_seconds=2.8, peak_bytes=0, imbalance=1)
    assert name_term(PLANNED, slow, on_cpu=True) == "off is compute: 2.8 s, planned 1.9 s"
    waits = Measured(step_seconds=4.0, own_seconds=2.0, peak_bytes=0, imbalance=1)
    assert name_term(PLANNED, waits, on_cpu=True) == "off is messages and waits: 2 s, planned 0.1 s"
    assert name_term(PLANNED, slow, on_cpu=False).startswith("off is compute, of it mostly products, or messages: 3 s")
    assert [is_far(found, 2.0, 1.25) for found in (1.5, 1.7, 2.4, 2.6)] == [True, False, False, True]


def test_a_stage_says_it_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    recipe = make_recipe(tokens=5 * 128, step_tokens=128, context_length=64, parallel={"ranks": 2})
    recipe = recipe.model_copy(update={"hardware": "h100-sxm x 8"})
    run, corpus = tmp_path / "run", write_corpus(tmp_path)
    write_model(run, tmp_path / "tokenizer")

    def on_rank() -> str:
        return train_stage(recipe, stage=0, run=run, corpus=corpus)

    assert run_ranks(on_rank, 2, threads=1) == ["limit"] * 2
    lines = capfd.readouterr().err.splitlines()
    assert sum("the recipe names h100-sxm" in line and "this machine has" in line for line in lines) == 1
    told = [line for line in lines if "plan: a step takes" in line]
    assert len(told) == 1 and "stage 0, plan: " in told[0] and "planned" in told[0] and "most of the plan is" in told[0]
    assert "`check` plans with one document a sequence" in told[0] and "measured in float32 before" in told[0]
