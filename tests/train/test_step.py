"""A step divides by the weight of its labels, whatever that is; one without a label is told and moves nothing."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ropewalk.checkpoint.load import load_weights, newest, read_facts
from ropewalk.core.record import TIMED, read_metrics
from ropewalk.core.run_folder import RunFolder
from ropewalk.parallel.launch import run_ranks
from ropewalk.recipe.spec import Recipe
from ropewalk.train import loop
from ropewalk.train.stage import train_stage
from tiny_run import make_recipe

ONE = {"ranks": 1, "context_parallel": 1}


def train(recipe: Recipe, run: Path, corpus: Path) -> tuple[dict[tuple[int, str], float], Path]:
    """Figures by (step, name), and the last checkpoint."""
    run_ranks(lambda: train_stage(recipe, stage=0, run=run, corpus=corpus), recipe.parallel.ranks, threads=1)
    figures = {
        (metric.step, metric.name): metric.value
        for metric in read_metrics(run / "metrics.jsonl")
        if metric.name not in TIMED
    }
    checkpoint = newest(RunFolder(run).checkpoints(0))
    assert checkpoint is not None
    return figures, checkpoint


@pytest.mark.parametrize("factor", [2.0**-10, 2.0**10])
def test_a_common_factor_of_all_labels_changes_nothing(
    factor: float, prepared: tuple[Path, Path], new_run: Callable[[str], Path]
) -> None:
    short: dict[str, Any] = {"tokens": 2 * 4 * 64, "log_steps": 1, "parallel": ONE}
    plain = make_recipe(**short, loss_weights={"plain": 1.0, "counted": 3.0})
    scaled = make_recipe(**short, loss_weights={"plain": factor, "counted": 3.0 * factor})
    expected, one = train(plain, new_run("plain"), prepared[1])
    found, other = train(scaled, new_run("scaled"), prepared[1])
    assert found == pytest.approx(expected, rel=1e-5)
    weights = load_weights(one)
    for name, weight in load_weights(other).items():
        torch.testing.assert_close(weight, weights[name], rtol=1e-4, atol=1e-6)


def test_a_step_without_labels_is_told_and_not_taken(
    prepared: tuple[Path, Path], new_run: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = loop.make_batches

    def strip(dataset: Any, cursor: int, **settings: Any) -> Any:
        batches = plain(dataset, cursor, **settings)
        if cursor != 2 * batches.sequences:
            return batches
        micro = tuple(dataclasses.replace(each, weights=each.weights * 0) for each in batches.micro)
        return dataclasses.replace(batches, micro=micro)

    monkeypatch.setattr(loop, "make_batches", strip)
    recipe = make_recipe(tokens=4 * 4 * 64, guard={"skipped_steps": 0})
    figures, checkpoint = train(recipe, new_run("bare"), prepared[1])
    assert figures[3, "skipped"] == 1 and figures[3, "skipped/unlabelled"] == 1
    assert (3, "loss/train") not in figures and (3, "grad_norm") not in figures
    assert sum(name == "skipped" for _, name in figures) == 1
    facts = read_facts(checkpoint)
    assert (facts["step"], facts["updates"], facts["skipped"]) == (4, 3, 1)
    assert facts["recent"][2] == [None, None, True], "the guard has no figure of it, and no fault"
    assert not list((checkpoint.parents[1]).glob("skipped/*")), "there is nothing to replay"
    assert json.loads((checkpoint / "state.json").read_text())["cursor"] == 16
