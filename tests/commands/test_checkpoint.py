"""One file of a run: a checkpoint becomes a model, a skipped step is looked at again, lost ranks are started again."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from safetensors.torch import load_file

from finished_saves import finish_saves
from ropewalk.checkpoint.load import load_weights
from ropewalk.commands.export import export_checkpoint, is_checkpoint
from ropewalk.commands.extend import extend_on_rank
from ropewalk.commands.on_ranks import on_ranks
from ropewalk.commands.replay import replay_skipped
from ropewalk.commands.train import _train_stage
from ropewalk.core.error import RankError, UserError
from ropewalk.core.run_folder import RunFolder
from ropewalk.recipe.spec import Recipe
from ropewalk.train import loop
from tiny_run import make_recipe, write_corpus, write_model


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """A run that stands before the training of its first stage."""
    run = RunFolder(tmp_path)
    write_model(tmp_path, tmp_path / "tokenizer")
    run.extended(0).rename(run.initial)
    on_ranks(extend_on_rank, 1, run.initial, run.extended(0), recipe_of().stages[0])
    write_corpus(tmp_path)
    return run


def die_before(step: int, marks: Path, times: int) -> Any:
    """Rank 1 kills itself before a step, so many times."""
    original = loop.train_step

    def take(state: Any, *args: Any, **settings: Any) -> Any:
        if state.step == step and dist.get_rank() == 1 and len(list(marks.glob("died-*"))) < times:
            (marks / f"died-{os.getpid()}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return original(state, *args, **settings)

    return take


def recipe_of(**parallel: Any) -> Recipe:
    return make_recipe(tokens=6 * 4 * 64, checkpoint_steps=2, parallel={"ranks": 2, "context_parallel": 2, **parallel})


def test_lost_ranks_are_started_again_and_any_checkpoint_is_exported(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(loop, "train_step", die_before(5, folder.root, 2))
    finish_saves(monkeypatch)
    assert _train_stage(recipe_of(), folder, 0) == "limit"
    said = capsys.readouterr().err
    assert "from step 4: attempt 1 of 3" in said and "from step 4: attempt 2 of 3" in said

    checkpoint, out = folder.checkpoints(0) / "step-00000004", folder.root / "out"
    assert is_checkpoint(checkpoint) and not is_checkpoint(folder.extended(0))
    export_checkpoint(checkpoint, out, ["dtype=float32"])
    weights = load_weights(checkpoint)
    found = load_file(out / "model.safetensors")
    assert found.keys() == weights.keys() and all(found[name].equal(weights[name]) for name in found)
    assert (out / "tokenizer.json").is_file() and json.loads((out / "config.json").read_text())["dtype"] == "float32"
    with pytest.raises(UserError, match="there already"):
        export_checkpoint(checkpoint, out, [])
    with pytest.raises(UserError, match="dtype"):
        export_checkpoint(checkpoint, folder.root / "other", ["dtypo=float32"])


def test_the_budget_of_restarts_is_counted_where_nothing_gets_further(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "train_step", die_before(1, folder.root, 100))
    with pytest.raises(RankError, match="SIGKILL"):
        _train_stage(recipe_of(restarts=1), folder, 0)
    assert len(list(folder.root.glob("died-*"))) == 2


def test_only_a_record_of_a_skipped_step_is_replayed(tmp_path: Path) -> None:
    path = tmp_path / "stages" / "0" / "skipped" / "step.json"
    path.parent.mkdir(parents=True)
    for text in ("", "[]", "{}", '{"rows": [{}]}'):
        path.write_text(text)
        with pytest.raises(UserError, match="not a record of a skipped step"):
            replay_skipped(path)
