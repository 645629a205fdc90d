"""What a stage stands on and does not find again ends it: its own checkpoints, and the moments of the stage before."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from ropewalk.checkpoint.load import list_checkpoints, newest, read_facts
from ropewalk.commands.plan_growth import plan_growth
from ropewalk.commands.train import write_trained
from ropewalk.core.artifact import new_folder
from ropewalk.core.error import UserError
from ropewalk.core.record import Metric, append_metrics, read_metrics
from ropewalk.core.run_folder import RunFolder
from ropewalk.parallel.launch import RankError, run_ranks
from ropewalk.recipe.spec import Recipe
from ropewalk.train.lost_checkpoints import refuse_lost_steps
from ropewalk.train.stage import train_stage
from tiny_run import make_recipe

NewRun = Callable[[str], Path]
Prepared = tuple[Path, Path]
SHORT = {"tokens": 3 * 4 * 64, "checkpoint_steps": 2, "log_steps": 3}
TWO, ONE = {"ranks": 2, "context_parallel": 2}, {"ranks": 1, "context_parallel": 1}


def train(recipe: Recipe, run: Path, prepared: Prepared, stage: int = 0) -> str:
    ranks = recipe.parallel.ranks
    return run_ranks(lambda: train_stage(recipe, stage=stage, run=run, corpus=prepared[1]), ranks, threads=1)[0]


def damage(run: Path, stage: int = 0) -> None:
    for path in list_checkpoints(RunFolder(run).checkpoints(stage)):
        file = next(path.glob("*.safetensors"))
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)


def remove(run: Path, stage: int = 0) -> None:
    shutil.rmtree(RunFolder(run).checkpoints(stage))


@pytest.fixture(scope="module")
def first_stage(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose first stage two ranks have trained to its end; a test changes a copy of it."""
    run = tmp_path_factory.mktemp("first") / "run"
    for stage in ("0", "1"):
        (run / "stages" / stage).mkdir(parents=True)
        (run / "stages" / stage / "extended").symlink_to(prepared[0] / "stages" / stage / "extended")
    assert train(make_recipe(**SHORT, parallel=TWO), run, prepared) == "limit"
    return run


@pytest.fixture
def trained_run(first_stage: Path, tmp_path: Path) -> Path:
    return shutil.copytree(first_stage, tmp_path / "trained", symlinks=True)


@pytest.mark.parametrize("lose", [remove, damage], ids=["removed", "damaged"])
def test_a_stage_never_begins_again_in_silence(
    lose: Callable[[Path], None], prepared: Prepared, trained_run: Path
) -> None:
    run, recipe = trained_run, make_recipe(**SHORT, parallel=TWO)
    rows = (run / "metrics.jsonl").read_bytes()
    lose(run)
    with pytest.raises(UserError, match=r"checkpoints of stage 0 are missing[\s\S]*step 3[\s\S]*on purpose, remove"):
        train(recipe, run, prepared)
    assert (run / "metrics.jsonl").read_bytes() == rows
    for path in (run / "stages" / "0").iterdir():  # as the error says, but for what the fixture made
        if path.name != "extended":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    (run / "metrics.jsonl").unlink()
    assert train(recipe, run, prepared) == "limit"


def test_rows_beyond_the_first_save_are_enough_to_tell(prepared: Prepared, new_run: NewRun) -> None:
    run = new_run("rows")
    append_metrics(run / "metrics.jsonl", [Metric(0, step, "lr", 0.1, "1") for step in (1, 2, 3)])
    with pytest.raises(UserError, match=r"metrics\.jsonl has 3 steps, more than before the first save"):
        train(make_recipe(**SHORT, parallel=ONE), run, prepared)


def test_a_first_save_that_was_due_later_in_the_session_before_is_not_lost(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Whoever is stopped before the first save may then ask for an earlier one."""
    append_metrics(tmp_path / "metrics.jsonl", [Metric(0, step, "lr", 0.1, "1") for step in (1, 2, 3)])
    context: Any = SimpleNamespace(
        number=0,
        is_first_rank=True,
        spec=make_recipe(**SHORT).stages[0],
        metrics=tmp_path / "metrics.jsonl",
        folder=RunFolder(tmp_path).stage(0),
    )
    sessions = [{"stage": stage, "means": {"checkpoint_steps": steps}} for stage, steps in ((0, 3), (1, 9))]
    RunFolder(tmp_path).sessions.write_text(json.dumps(sessions))
    refuse_lost_steps(context)
    assert "it was stopped at step 3" in capfd.readouterr().err
    RunFolder(tmp_path).sessions.write_text(json.dumps(sessions[1:]))
    with pytest.raises(UserError, match="more than before the first save"):
        refuse_lost_steps(context)


def test_who_ended_before_the_first_save_begins_again_and_is_told(
    prepared: Prepared, new_run: NewRun, capfd: pytest.CaptureFixture[str]
) -> None:
    run = new_run("early")
    append_metrics(run / "metrics.jsonl", [Metric(0, step, "lr", 0.1, "1") for step in (1, 2)])
    assert train(make_recipe(**SHORT, parallel=ONE), run, prepared) == "limit"
    assert "starts again at step 0: it was stopped at step 2" in capfd.readouterr().err
    assert [row.step for row in read_metrics(run / "metrics.jsonl") if row.name == "lr"] == [1, 2, 3]


def test_a_kill_in_the_first_save_is_no_loss(
    prepared: Prepared, new_run: NewRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, recipe = new_run("torn"), make_recipe(**SHORT, parallel=ONE)

    def die(*_: object, **__: object) -> None:
        raise SystemError("the machine went away")

    with monkeypatch.context() as patch, pytest.raises(RankError, match="went away"):
        patch.setattr("ropewalk.checkpoint.saver.write_snapshot", die)
        train(recipe, run, prepared)
    assert train(recipe, run, prepared) == "limit"


@pytest.mark.parametrize("lose", [remove, damage], ids=["removed", "damaged"])
def test_moments_that_are_gone_stop_the_next_stage(
    lose: Callable[[Path], None], prepared: Prepared, trained_run: Path
) -> None:
    run, recipe = trained_run, make_recipe(**SHORT, parallel=TWO)
    lose(run)
    with pytest.raises(
        UserError, match=r"moments of the previous stage are missing[\s\S]*stages\.1\.carry_moments=false"
    ):
        train(recipe, run, prepared, stage=1)
    fresh = make_recipe(**SHORT, parallel=TWO, carry_moments=False)
    assert train(fresh, run, prepared, stage=1) == "limit"
    last = newest(RunFolder(run).checkpoints(1))
    assert last is not None and read_facts(last)["updates"] == 3, "Adam counts anew"


def test_moments_of_the_middle_of_a_stage_are_not_those_of_its_end(prepared: Prepared, trained_run: Path) -> None:
    run, recipe = trained_run, make_recipe(**SHORT, parallel=ONE)
    shutil.rmtree(RunFolder(run).checkpoints(0) / "step-00000003")
    with pytest.raises(UserError, match="step-00000002 is not the last checkpoint of the stage"):
        train(recipe, run, prepared, stage=1)
    with pytest.raises(UserError, match="step-00000002, the newest that can be verified, is not the last checkpoint"):
        run_ranks(write_trained, 2, recipe, RunFolder(run), 0)
    assert not RunFolder(run).trained(0).exists(), "no model of the middle of a stage"


def test_carry_moments_may_be_set_in_the_middle_of_a_run(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    recipe = make_recipe(**SHORT)
    folder.recipe.write_text(yaml.safe_dump(recipe.to_json()))
    with new_folder(folder.trained(0), kind="model", inputs={}) as work:
        (work / "weights").write_text("w")
    first, second = recipe.stages[:2]
    fresh = second.model_copy(update={"carry_moments": False})
    growth = plan_growth(recipe.model_copy(update={"stages": (first, fresh)}), folder)
    assert [change.path for change in growth.changes] == ["stages.1.carry_moments"] and not growth.stale
    with pytest.raises(UserError, match=r"stage 0 would have to be trained again"):
        plan_growth(
            recipe.model_copy(update={"stages": (first.model_copy(update={"max_grad_norm": 2.0}), fresh)}), folder
        )
