"""A whole run: every part leaves its artifact, a second run does nothing, a killed one goes on to the same result."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from fork_server import serve_forks
from forked_torchrun import run_as_torchrun
from forked_verb import start_verb
from ropewalk.commands.check import check_recipe
from ropewalk.commands.corpus import report_corpus
from ropewalk.commands.on_ranks import on_ranks
from ropewalk.commands.receipt import tell_receipt
from ropewalk.commands.run import do_part, run_recipe
from ropewalk.commands.train import check_gate
from ropewalk.core.artifact import is_finished
from ropewalk.core.error import UserError
from ropewalk.core.record import read_metrics, read_scores
from ropewalk.core.run_folder import RunFolder
from ropewalk.evaluate.stage_gate import read_verdicts
from ropewalk.recipe.check import check
from ropewalk.recipe.load import parse_recipe
from ropewalk.recipe.spec import Recipe
from swapped_tokenizer import swap_two_tokens


def change(recipe: Recipe, **changes: Any) -> Recipe:
    return parse_recipe({**recipe.to_json(), **changes}, where="test")


def read_weights(folder: RunFolder) -> bytes:
    return (folder.export / "model.safetensors").read_bytes()


@pytest.mark.timeout(900)
def test_all_parts_and_then_nothing_and_a_killed_run_ends_the_same(
    recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = RunFolder(Path(recipe.run))
    result = run_recipe(recipe)
    for path in (folder.corpus, folder.tokenizer, folder.initial, folder.trained(1), folder.export, folder.root):
        assert is_finished(path), path
    assert Path(result["report"]).stat().st_size > 10_000 and "retrieval" in result["text"]
    assert json.loads(folder.parity.read_text())
    extended = do_part("extend", recipe)
    assert extended["layers"] and f"layers {extended['layers'][0]}" in extended["text"]
    assert {score.model for score in read_scores(folder.scores)} == {"extended"}
    steps = {(row.stage, row.step) for row in read_metrics(folder.metrics) if row.name == "loss/train"}
    assert steps == {(stage, step) for stage in (0, 1) for step in range(1, 9)}

    told = tell_receipt(folder.root, None)
    assert [stage["tokens_per_second"]["count"] for stage in told["stages"]] == [6, 6], "two steps of each are warm-up"
    assert told["stages"][1]["rig"]["link_bytes_per_second"] > 0 and told["stages"][1]["attention_bytes"] > 0
    for stage in told["stages"]:
        assert stage["state_bytes"] == stage["planned"]["state_bytes"], "both are of a whole step"
    assert sum(told["stages"][0]["sequences"]["lengths"].values()) > 0 and "tokens/s" in told["text"]
    assert 'id="receipt"' in Path(result["report"]).read_text()
    itself = tell_receipt(folder.root, folder.receipt)["stages"]
    assert [stage["ratio"] for stage in itself] == [1, 1] and set(itself[0]["factors"].values()) == {1}

    verdicts = {verdict.gate: verdict.met for verdict in read_verdicts(folder.gate(1))}
    assert verdicts == {"window_loss": True, "retrieval": False, "short_loss": True}
    stages = recipe.to_json()["stages"]
    stages[1]["gate"]["otherwise"] = "stop"
    with pytest.raises(UserError, match="stage 1 does not pass its gate"):
        on_ranks(check_gate, 2, change(recipe, stages=stages), folder, 1)

    before = {path: path.stat().st_mtime_ns for path in folder.root.rglob("*") if path.name != ".lock"}
    capsys.readouterr()
    assert run_recipe(recipe)["report"] == result["report"]
    assert "nothing to do" in capsys.readouterr().err
    assert before == {path: path.stat().st_mtime_ns for path in folder.root.rglob("*") if path.name != ".lock"}

    assert check_recipe(recipe)["errors"] == 0  # now also of the rows that the corpus gives
    with pytest.raises(UserError, match="another recipe"):
        run_recipe(change(recipe, seed=2))

    again = change(recipe, run=str(tmp_path / "again"))
    kill_and_go_on(again, tmp_path)
    one, two = RunFolder(Path(again.run)), folder
    for stage in (0, 1):
        names = (one.trained(stage) / "model.safetensors", two.trained(stage) / "model.safetensors")
        assert names[0].read_bytes() == names[1].read_bytes()


def kill_and_go_on(recipe: Recipe, tmp_path: Path) -> None:
    """Kill a run in the midst of its first stage, and let another process train on (more kills: tests/faults)."""
    path = tmp_path / "again.yaml"
    path.write_text(yaml.safe_dump(recipe.to_json()))
    moment = RunFolder(Path(recipe.run)).checkpoints(0) / "step-00000003"
    killed = start_verb(["run", str(path)], tmp_path / "run.txt")
    while not moment.exists() and killed.process.is_alive():
        time.sleep(0.05)
    killed.process.kill()
    killed.wait()
    assert moment.exists() and not RunFolder(Path(recipe.run)).trained(0).exists(), "it ended before it was killed"
    verb = start_verb(["train", str(path)], tmp_path / "train.txt")
    assert verb.wait() == 0 and "continues from step-" in verb.said, verb.said


def test_a_part_names_the_one_that_it_stands_on(recipe: Recipe) -> None:
    for part, needed in (("train", "prepare"), ("evaluate", "train"), ("export", "train")):
        with pytest.raises(UserError, match=f"ropewalk {needed}"):
            do_part(part, recipe)


@pytest.mark.parametrize("begin", [run_recipe, lambda recipe: do_part("prepare", recipe)])
def test_missing_text_is_told_before_anything_else(
    recipe: Recipe, begin: Callable[[Recipe], Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The recipe has warnings too; they would stand before the reason why it cannot begin."""
    data = recipe.to_json()
    data["stages"][1]["step_tokens"] = 192
    assert any("a step of whole sequences" in each.message for each in check(parse_recipe(data, where="test"), None))
    data["corpus"]["sources"][0].update(embedded=None, size_bytes=None, options={}, path=str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="files that the recipe names are missing"):
        begin(parse_recipe(data, where="test"))
    assert capsys.readouterr().err == "" and not Path(recipe.run).exists()


def test_a_recipe_that_breaks_a_rule_leaves_nothing(recipe: Recipe) -> None:
    broken = change(recipe, parallel={"ranks": 3, "context_parallel": 2})
    with pytest.raises(UserError, match="breaks a rule"):
        run_recipe(broken)
    assert not Path(recipe.run).exists()


def test_training_on_the_ids_of_another_tokenizer_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    """The base's tokenizer changed after its corpus was prepared; the vocabulary is as large as before."""
    do_part("prepare", recipe)
    shutil.copytree(RunFolder(Path(recipe.run)).initial, tmp_path / "base")
    stages = recipe.to_json()["stages"][1:]
    recipe = change(recipe, model=str(tmp_path / "base"), run=str(tmp_path / "second"), stages=stages)
    do_part("prepare", recipe)
    (tmp_path / "base" / "manifest.json").unlink()  # as a base from elsewhere, which nobody compares with one
    swap_two_tokens(tmp_path / "base" / "tokenizer.json")
    with pytest.raises(UserError, match="corpus was made with another tokenizer"):
        do_part("train", recipe)
    with pytest.raises(UserError, match="corpus was made with another tokenizer"):
        report_corpus(recipe)


@pytest.mark.timeout(900)
def test_torchrun_runs_a_whole_recipe_as_one_machine_does(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One rank prepares, all train and measure, one exports and reports; once more there is nothing to do.

    torchrun's agent is a fresh interpreter; the ranks and what loads the export are forks. A fresh rank of this command
    is in the next test, one that trains in tests/test_examples.py, and a fresh reload in tests/model/test_export.py.
    """
    recipe = change(recipe, stages=recipe.to_json()["stages"][:1], parallel={"ranks": 2, "recompute": "none"})
    path, folder = tmp_path / "torchrun.yaml", RunFolder(Path(recipe.run))
    path.write_text(yaml.safe_dump(recipe.to_json()))
    run_recipe(change(recipe, run=str(tmp_path / "alone")))
    monkeypatch.setattr("ropewalk.model.export_parity.subprocess", subprocess)
    with serve_forks(tmp_path) as python:
        done = start_torchrun("run", path, PYTHON_EXEC=str(python))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(folder.report) and done.stderr.count("== prepare") == 1
    assert is_finished(folder.root) and read_weights(folder) == read_weights(RunFolder(tmp_path / "alone"))
    assert read_scores(folder.scores) == read_scores(RunFolder(tmp_path / "alone").scores)
    before = {path: path.stat().st_mtime_ns for path in folder.root.rglob("*") if path.name != ".lock"}
    again = run_as_torchrun(("-m", "ropewalk", "run", str(path)), 2, tmp_path)
    assert again.codes == (0, 0) and again.errors.count("nothing to do") == 1, again
    assert before == {path: path.stat().st_mtime_ns for path in folder.root.rglob("*") if path.name != ".lock"}


def test_a_fault_on_the_rank_that_prepares_ends_all(recipe: Recipe, tmp_path: Path) -> None:
    data = recipe.to_json()
    data["corpus"]["sources"][0] |= {"embedded": None, "path": str(tmp_path / "none.jsonl"), "options": {}}
    path = tmp_path / "torchrun.yaml"
    path.write_text(yaml.safe_dump(data))
    with serve_forks(tmp_path, fresh_rank=0) as python:
        done = start_torchrun("run", path, PYTHON_EXEC=str(python))
    assert done.returncode == 1 and done.stderr.count("ropewalk: files that the recipe names are missing") == 1
    path.write_text(yaml.safe_dump({**recipe.to_json(), "parallel": {"ranks": 1}}))
    done = run_as_torchrun(("-m", "ropewalk", "run", str(path)), 2, tmp_path)
    assert done.codes == (2, 2) and "the recipe needs 1 rank, but torchrun started 2" in done.errors


def start_torchrun(verb: str, path: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "ropewalk", verb, str(path)]
    settings = {**os.environ, **environment}
    return subprocess.run(command, env=settings, capture_output=True, text=True, check=False)
