"""A whole sweep in miniature: every cell once, none twice, the same scores whoever was killed, and means over seeds."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from forked_verb import Verb, start_verb
from ropewalk.commands import sweep as sweep_module
from ropewalk.commands.grow import write_recipe
from ropewalk.commands.run import do_part
from ropewalk.commands.sweep import find_pruned, require_one_tokenizer, run_sweep
from ropewalk.commands.sweep_results import format_results, gather, tabulate
from ropewalk.core.artifact import new_folder
from ropewalk.core.error import UserError
from ropewalk.core.record import Score, read_scores, write_scores
from ropewalk.core.run_folder import RunFolder
from ropewalk.corpus.tokens.corpus_folder import open_corpus
from ropewalk.corpus.tokens.tokenizer import load_tokenizer
from ropewalk.evaluate.evaluate import describe_written, plan_measurements
from ropewalk.evaluate.score import mean
from ropewalk.evaluate.stored_sums import find_sums
from ropewalk.recipe.load import load_recipe
from ropewalk.recipe.spec import Recipe
from ropewalk.recipe.sweep import load_sweep
from ropewalk.shape.read import read_shape

CELLS = ["seed-1/base/", "seed-1/linear/zero-shot/", "seed-1/theta/zero-shot/"]
CELLS += ["seed-1/linear/trained/", "seed-1/theta/trained/"]
CELLS += ["seed-2/base/", "seed-2/linear/trained/", "seed-2/theta/trained/"]


@pytest.fixture
def study(recipe: Recipe, tmp_path: Path) -> Path:
    """Two arms and two seeds on a model that was made from nothing beforehand, one rank."""
    do_part("prepare", recipe)
    data = recipe.to_json()
    data |= {"model": str(RunFolder(Path(recipe.run)).initial), "stages": data["stages"][1:]}
    data["parallel"] |= {"ranks": 1, "context_parallel": 1}
    data["stages"][0] |= {"tokens": 2048, "checkpoint_steps": 1}
    (tmp_path / "one.yaml").write_text(yaml.safe_dump(data))
    sweep = {
        "recipe": "one.yaml",
        "study": str(tmp_path / "study"),
        "arms": {"linear": ["stages.0.rope={kind: linear}"], "theta": ["stages.0.rope={kind: theta, theta: 1e5}"]},
        "seeds": [1, 2],
    }
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(sweep, sort_keys=False))
    return path


def read_cells(results: Path) -> list[dict[str, Any]]:
    return [{**cell, "choices": tuple(cell["choices"])} for cell in json.loads(results.read_text())["cells"]]


@pytest.mark.timeout(900)
def test_a_sweep_measures_every_cell_once_and_killed_or_shared_ends_the_same(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = run_sweep(study, [])
    folder = tmp_path / "study"
    found = sorted(str(path.parent.relative_to(folder / "cells")) + "/" for path in folder.rglob("scores.json"))
    assert found == sorted(CELLS) and result["cells"] == len(CELLS) and "trained theta" in result["text"]
    check_results(json.loads(Path(result["results"]).read_text()), folder)
    check_sums(study, folder)

    before = {path: path.stat().st_mtime_ns for path in folder.rglob("scores.json")}
    capsys.readouterr()
    run_sweep(study, [])
    assert "8 cells, 8 of them done" in capsys.readouterr().err
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("scores.json")}

    again = tmp_path / "again"
    kill_in_the_midst(study, again)
    both = [start(study, again, name) for name in ("left", "right")]  # what is left of a seed, shared by two
    assert [verb.wait() for verb in both] == [0, 0]
    assert any("continues from step-" in verb.said for verb in both), "the training that was killed began anew"
    first_seed = [cell for cell in read_cells(folder / "results.json") if cell["seed"] == 1]
    assert read_cells(again / "results.json") == first_seed and len(first_seed) == 5


def start(study: Path, folder: Path, name: str) -> Verb:
    arguments = ["sweep", str(study), f"study={folder}", "seeds=[1]"]
    return start_verb(arguments, folder.with_name(f"{name}.txt"), before=_wait_little)


def _wait_little() -> None:
    """A cell that another process holds is tried again soon."""
    sweep_module._WAIT_SECONDS = 0.1


def kill_in_the_midst(study: Path, folder: Path) -> None:
    """Kill while the first arm is being trained."""
    cell = RunFolder(folder / "cells" / CELLS[3])
    verb = start(study, folder, "killed")
    while not (cell.checkpoints(0) / "step-00000001").exists() and verb.process.is_alive():
        time.sleep(0.02)
    verb.process.kill()
    verb.wait()
    assert not cell.scores.exists(), "it was measured before it was killed"


def check_results(results: dict[str, Any], folder: Path) -> None:
    """The file against the cells' own folders, by hand."""
    for cell, name in zip(results["cells"], CELLS, strict=True):
        run = RunFolder(folder / "cells" / name)
        assert cell["recipe"] == load_recipe(run.recipe).digest
        scores = read_scores(run.scores)
        assert {score.model for score in scores} == {cell["kind"]}
        assert [row[0] for row in cell["scores"]] == [score.task for score in scores]
        assert [row[5] for row in cell["scores"]] == pytest.approx([score.value for score in scores], abs=1e-6)
    one, two = (cell for cell in results["cells"] if (cell["kind"], cell["arm"]) == ("trained", "linear"))
    (first,), (second,) = ([row for row in cell["scores"] if row[0] == "short/stories"] for cell in (one, two))
    found, alone = (find(results, kind, "linear") for kind in ("trained", "zero-shot"))
    assert found["seeds"] == 2 and alone["seeds"] == 1 and first[5] != second[5]
    (row,) = (row for row in found["scores"] if row[0] == "short/stories")
    assert row[4] == first[4] + second[4]
    assert row[5:] == pytest.approx(mean([first[5], second[5]]), abs=1e-6)
    (row,) = (row for row in alone["scores"] if row[0] == "short/stories")
    assert row[6] < row[5] < row[7]
    assert not any(row[3] is not None for row in found["scores"])
    assert {"processor", "cores", "torch"} <= results["machine"].keys()


def check_sums(study: Path, folder: Path) -> None:
    """What was kept of every answer of a cell gives the cell's scores again, so two cells can be paired by it."""
    cell = load_sweep(study)[1][3]
    run, spec = RunFolder(folder / "cells" / cell.name), cell.recipe.evaluate
    base_tokens = read_shape(Path(str(cell.recipe.model))).context_tokens
    planned = plan_measurements(
        spec, load_tokenizer(run.trained(0)), corpus=open_corpus(run.corpus), base_tokens=base_tokens
    )
    items, asked = [each.items for each in planned], describe_written(spec, ())
    sums = find_sums(folder / "sums", run.trained(0), items, asked)
    assert sums is not None and find_sums(folder / "sums", run.trained(0), items[1:], asked) is None
    scores = [score for each, own in zip(planned, sums, strict=True) for score in each.score(own, model="trained")]
    assert scores and {repr(score) for score in scores} <= {repr(score) for score in read_scores(run.scores)}


def find(results: dict[str, Any], kind: str, arm: str) -> dict[str, Any]:
    (entry,) = (entry for entry in results["means"] if (entry["kind"], entry["arm"]) == (kind, arm))
    return dict(entry)


def test_a_sweep_that_does_not_hold_together_leaves_nothing(study: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="set twice"):
        run_sweep(study, ["overrides=[]", "axes={rope: {a: [stages.0.rope.theta=1e4]}}"])
    broken = ["arms={a: [stages.0.context_length=32]}"]  # below the base's own: a rule of recipes, met before any work
    with pytest.raises(UserError, match="breaks a rule"):
        run_sweep(study, [*broken, "base=false"])
    assert not (tmp_path / "study").exists()


def test_arms_of_unlike_tokenizers_are_refused(study: Path, tmp_path: Path) -> None:
    """As if an arm's ``model`` were another one: its corpus names the tokenizer that made its ids."""
    _, cells = load_sweep(study)
    base, *others = cells
    for cell, digest in ((base, "a"), (others[0], "a"), (others[1], "b")):
        with new_folder(RunFolder(Path(cell.recipe.run)).corpus, kind="corpus", inputs={"tokenizer": digest}):
            pass
    require_one_tokenizer(others[0], [base, others[0]])
    with pytest.raises(UserError, match=f"{others[1].name} has another tokenizer than {base.name}"):
        require_one_tokenizer(others[1], cells)


def test_later_seeds_of_hopeless_arms_are_left_out_once_the_first_seeds_are_measured(tmp_path: Path) -> None:
    """Scores are written by hand: the arm ``bad`` is worse far out and no better at the base's length."""
    path = tmp_path / "study.yaml"
    arms = {"good": [], "bad": ["stages.0.rope={kind: linear}"]}
    own = {"study": str(tmp_path / "study"), "arms": arms, "seeds": [1, 2, 3], "zero_shot": False}
    path.write_text(yaml.safe_dump({"recipe": "quickstart", **own, "prune": {"seeds": 1}}, sort_keys=False))
    sweep, cells = load_sweep(path)
    assert find_pruned(sweep, cells) is None
    for cell in cells[:3]:
        folder = RunFolder(Path(cell.recipe.run))
        folder.root.mkdir(parents=True)
        write_recipe(cell.recipe, folder)
        rows = {"nll/position/1536-2048": 3.0 if cell.arm == "bad" else 2.0, "short/code": 2.0}
        scores = [Score(cell.kind, task, "nats", 2048, None, None, 9, value, 1, 9) for task, value in rows.items()]
        write_scores(folder.scores, scores)
        assert (find_pruned(sweep, cells) is None) == (cell is not cells[2])
    assert find_pruned(sweep, cells) == {f"seed-{seed}/bad/trained": "good" for seed in (2, 3)}
    pruned = find_pruned(sweep, cells) or {}
    results = gather(sweep, cells[:3], pruned)
    text = tabulate(results)
    assert "bad minus good: far loss +1.0000" in text and "* 2.0000" in text and "  3.0000" in text
    assert "seed-2/bad/trained: good was better in every first seed" in text
    assert json.loads(format_results(results))["contrasts"][0]["scores"][0][3] is None, "one seed has no interval"
