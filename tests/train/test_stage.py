"""A stage on any ranks is the same stage; killed or stopped anywhere it goes on bit for bit; it ends when told."""

import dataclasses
import json
import os
import signal
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from ropewalk.checkpoint.load import list_checkpoints, load_weights, newest
from ropewalk.core.digest import digest_bytes
from ropewalk.core.error import UserError
from ropewalk.core.record import TIMED, Metric, read_metrics
from ropewalk.core.run_folder import RunFolder
from ropewalk.corpus.tokens.corpus_folder import open_corpus
from ropewalk.parallel.launch import run_ranks
from ropewalk.recipe.spec import Recipe
from ropewalk.recipe.stage_dataset import open_stage
from ropewalk.train import loop
from ropewalk.train.stage import train_stage
from tiny_run import make_recipe

NewRun = Callable[[str], Path]
Prepared = tuple[Path, Path]
Losing = Callable[[int], AbstractContextManager[None]]


def train(recipe: Recipe, run: Path, corpus: Path, stage: int = 0) -> str:
    def on_rank() -> str:
        return train_stage(recipe, stage=stage, run=run, corpus=corpus)

    return run_ranks(on_rank, recipe.parallel.ranks, threads=1)[0]


def rows_of(run: Path) -> list[Metric]:
    return [row for row in read_metrics(run / "metrics.jsonl") if row.name not in TIMED]


def last_weights(run: Path, stage: int = 0) -> dict[str, torch.Tensor]:
    checkpoint = newest(RunFolder(run).checkpoints(stage))
    assert checkpoint is not None
    return load_weights(checkpoint)


def contents(run: Path) -> dict[str, Any]:
    """All of the last checkpoint: weights, moments, generators, counters. File headers keep no order of keys."""
    checkpoint = newest(RunFolder(run).checkpoints(0))
    assert checkpoint is not None
    found: dict[str, Any] = {"state": (checkpoint / "state.json").read_text()}
    for path in checkpoint.glob("*.safetensors"):
        found |= {
            f"{path.name}/{name}": digest_bytes(value.numpy().tobytes()) for name, value in load_file(path).items()
        }
    return found


SHORT = {"tokens": 5 * 4 * 64, "log_steps": 5, "checkpoint_steps": 5, "loss_weights": {"counted": 3.0}}


@pytest.fixture(scope="module")
def one_rank(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one rank that others are compared with."""
    run = begin_run(prepared, tmp_path_factory.mktemp("one"))
    recipe = make_recipe(**SHORT, micro_batch_size=1, parallel={"ranks": 1, "context_parallel": 1})
    assert train(recipe, run, prepared[1]) == "limit"
    return run


def begin_run(prepared: Prepared, run: Path) -> Path:
    (run / "stages" / "0").mkdir(parents=True)
    (run / "stages" / "0" / "extended").symlink_to(prepared[0] / "stages" / "0" / "extended")
    return run


@pytest.mark.parametrize(
    "parallel",
    [
        {"ranks": 2, "context_parallel": 2},
        {"ranks": 2, "context_parallel": 2, "ulysses_degree": 2},
        {"ranks": 4, "context_parallel": 4, "ulysses_degree": 2},
        {"ranks": 2, "context_parallel": 1},
        {"ranks": 2, "context_parallel": 2, "recompute": "full"},
        {"ranks": 4, "context_parallel": 2, "replicas": 2},
    ],
    ids=["context", "heads", "heads x rows", "data", "recompute", "replicas"],
)
def test_two_ranks_equal_one(one_rank: Path, prepared: Prepared, new_run: NewRun, parallel: dict[str, Any]) -> None:
    one, two = one_rank, new_run("two")
    assert train(make_recipe(**SHORT, micro_batch_size=2, parallel=parallel), two, prepared[1]) == "limit"
    expected = {(row.step, row.name): row.value for row in rows_of(one) if row.name != "imbalance"}
    found = {(row.step, row.name): row.value for row in rows_of(two) if row.name != "imbalance"}
    assert found == pytest.approx(expected, rel=2e-4, abs=1e-6)
    before, alone = load_start(prepared), last_weights(one)
    for name, weight in last_weights(two).items():
        moved = (alone[name] - before[name]).norm()
        assert moved > 0
        # Adam divides by the gradient's size, so what rounding leaves of a gradient near 0 moves a weight fully.
        assert (weight - alone[name]).norm() / moved < 5e-3, name


def load_start(prepared: Prepared) -> dict[str, torch.Tensor]:
    return load_file(next((prepared[0] / "stages" / "0" / "extended").glob("*.safetensors")))


@pytest.fixture(scope="module")
def straight(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of eight steps on two context ranks that nothing disturbs."""
    run = begin_run(prepared, tmp_path_factory.mktemp("straight"))
    assert train(make_recipe(), run, prepared[1]) == "limit"
    return run


def test_resume_after_kills_is_bit_identical(
    straight: Path, prepared: Prepared, new_run: NewRun, losing: Losing
) -> None:
    run = new_run("killed")
    for step, saved in ((2, []), (6, [4]), (5, [4])):
        with losing(step):
            train(make_recipe(), run, prepared[1])
        assert [int(path.name[-1]) for path in list_checkpoints(RunFolder(run).checkpoints(0))] == saved
    assert train(make_recipe(), run, prepared[1]) == "limit"
    assert contents(run) == contents(straight)
    assert rows_of(run) == rows_of(straight)
    assert train(make_recipe(), run, prepared[1]) == "limit", "a stage that has ended is not trained again"
    assert rows_of(run) == rows_of(straight)


def test_sigterm_saves_and_leaves(
    straight: Path, prepared: Prepared, new_run: NewRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, parent, original = new_run("stopped"), os.getpid(), loop.train_step

    def ask(state: Any, *args: Any, **settings: Any) -> Any:
        if state.step == 4 and dist.get_rank() == 0:
            os.kill(parent, signal.SIGTERM)
        return original(state, *args, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", ask)
        assert train(make_recipe(), run, prepared[1]) == "stopped"
    saved = newest(RunFolder(run).checkpoints(0))
    assert saved is not None and saved.name in {"step-00000005", "step-00000006"}
    assert train(make_recipe(), run, prepared[1]) == "limit"
    assert contents(run) == contents(straight) and rows_of(run) == rows_of(straight)


def test_resume_on_another_number_of_ranks(straight: Path, prepared: Prepared, new_run: NewRun, losing: Losing) -> None:
    run = new_run("fewer")
    with losing(5):
        train(make_recipe(), run, prepared[1])
    assert train(make_recipe(parallel={"ranks": 1, "context_parallel": 1}), run, prepared[1]) == "limit"
    loss = {row.step: row.value for row in rows_of(run) if row.name == "loss/train"}
    assert loss == pytest.approx({r.step: r.value for r in rows_of(straight) if r.name == "loss/train"}, rel=1e-4)


@pytest.mark.parametrize(
    ("metric", "value", "ending", "steps"),
    [("loss/role/general", 100.0, "solved", 3), ("accuracy/source/counted", 1.1, "limit", 5)],
)
def test_until(prepared: Prepared, new_run: NewRun, metric: str, value: float, ending: str, steps: int) -> None:
    run = new_run("until")
    recipe = make_recipe(stop={"metric": metric, "value": value, "max_steps": 5})
    assert train(recipe, run, prepared[1]) == ending
    rows = rows_of(run)
    assert max(row.step for row in rows) == steps
    assert [row.value for row in rows if row.name == "stage/solved"] == [float(ending == "solved")]
    assert train(recipe, run, prepared[1]) == ending and rows_of(run) == rows
    planned = open_stage(recipe, 0, open_corpus(prepared[1])).planned
    assert json.loads((run / "stages" / "0" / "mix.json").read_text()) == planned, "what the report compares with"


def test_ranks_that_read_other_rows_are_named_before_they_wait(prepared: Prepared, new_run: NewRun) -> None:
    run = new_run("astray")

    def on_rank() -> str:
        order = {"seed": 3 + dist.get_rank()}
        try:
            return train_stage(make_recipe().model_copy(update=order), stage=0, run=run, corpus=prepared[1])
        except UserError as refusal:
            return str(refusal)

    for said in run_ranks(on_rank, 2):
        assert "do not have the same sequences\n  where: rank 1 of 2" in said


def test_until_retrieval_asks_the_weights_as_they_stand(prepared: Prepared, new_run: NewRun) -> None:
    until = {"metric": "retrieval", "value": 0.0, "max_steps": 4}
    recipe = make_recipe(context_length=512, step_tokens=1024, tokens=4096, stop=until, log_steps=2)
    recipe = recipe.model_copy(update={"evaluate": recipe.evaluate.model_copy(update={"answers": 40})})
    run = new_run("asked")
    assert train(recipe, run, prepared[1]) == "solved"
    found = {row.name: row for row in rows_of(run) if row.step == 2}
    assert found["retrieval"].unit == "share" and found["stage/solved"].value == 1
    with pytest.raises(UserError, match="cannot be measured at 64"):
        train(make_recipe(stop=until), new_run("short"), prepared[1])


def test_a_second_stage_takes_the_moments_along(straight: Path, prepared: Prepared, new_run: NewRun) -> None:
    run = new_run("two")
    recipe = make_recipe(tokens=2 * 4 * 64)
    assert train(recipe, run, prepared[1]) == "limit"
    assert train(recipe, run, prepared[1], stage=1) == "limit"
    checkpoint = newest(RunFolder(run).checkpoints(1))
    assert checkpoint is not None and '"updates": 4' in (checkpoint / "state.json").read_text()
    assert {row.stage for row in rows_of(run)} == {0, 1}


def poison(steps: set[int]) -> Callable[..., Any]:
    """Before these steps one weight's gradient on one rank becomes NaN; the state before and after is compared."""
    original = loop.train_step

    def step(state: Any, batches: Any, **settings: Any) -> Any:
        if state.step not in steps:
            return original(state, batches, **settings)
        before = [value.clone() for value in everything(state)]
        if dist.get_rank() == 1:
            micro = dataclasses.replace(batches.micro[0], weights=batches.micro[0].weights * float("inf"))
            batches = dataclasses.replace(batches, micro=(micro, *batches.micro[1:]))
        result = original(state, batches, **settings)
        assert all(torch.equal(a, b) for a, b in zip(before, everything(result.state), strict=True))
        assert {row.name for row in result.metrics} == {"lr", "imbalance", "skipped"}
        assert "is not finite" in result.reason
        return result

    return step


def everything(state: Any) -> list[torch.Tensor]:
    tensors = [parameter.to_local() for parameter in state.model.parameters()]
    for moments in state.optimizer.state.values():
        tensors += [moments[name].to_local() for name in ("exp_avg", "exp_avg_sq")]
    return [tensor.detach() for tensor in tensors]


def test_a_step_that_is_not_finite_moves_nothing(
    prepared: Prepared, new_run: NewRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = new_run("poisoned")
    monkeypatch.setattr(loop, "train_step", poison({2, 5}))
    assert train(make_recipe(), run, prepared[1]) == "limit"
    rows = rows_of(run)
    assert [(row.step, row.value) for row in rows if row.name == "skipped"] == [(3, 1), (6, 2)]
    assert all(weight.isfinite().all() for weight in last_weights(run).values())
    assert all(row.value == row.value for row in rows), "no figure is NaN"


def test_too_many_skips_end_the_stage(prepared: Prepared, new_run: NewRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "train_step", poison(set(range(100))))
    with pytest.raises(UserError, match=r"training is unstable[\s\S]*no checkpoint is older"):
        train(make_recipe(guard={"skipped_steps": 1}), new_run("lost"), prepared[1])


def test_names_that_lead_nowhere_are_refused(prepared: Prepared, new_run: NewRun) -> None:
    until = {"metric": "accuracy/source/kv", "value": 0.9, "max_steps": 5}
    with pytest.raises(UserError, match=r"no metric 'accuracy/source/kv'[\s\S]*accuracy/source/counted"):
        train(make_recipe(stop=until), new_run("metric"), prepared[1])
    with pytest.raises(ValueError, match=r"loss_weights\.kv names no source"):
        make_recipe(loss_weights={"kv": 2.0})
