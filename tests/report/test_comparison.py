"""Several runs on one page: side by side, and with what keeps them from being compared."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from ropewalk.cli.main import app
from ropewalk.cli.next_steps import say_next
from ropewalk.core.error import UserError
from ropewalk.report.comparison import write_comparison


def copy(run: Path, name: str, *, seed: int | None = None) -> Path:
    other = run.parent / name
    other.parent.mkdir(exist_ok=True)
    shutil.copytree(run, other)
    if seed is not None:
        recipe = yaml.safe_load((other / "recipe.yaml").read_text())
        recipe["evaluate"]["seed"] = seed
        (other / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    return other


def test_runs_stand_side_by_side(run: Path, tmp_path: Path) -> None:
    other, unmeasured = copy(run, "b<i>"), copy(run, "c", seed=7)
    (unmeasured / "scores.json").unlink()
    page = tmp_path / "out.html"
    done = CliRunner().invoke(
        app, ["report", "--compare", str(run), str(other), str(unmeasured), "--out", str(page), "--json"]
    )
    assert done.exit_code == 0, done.output
    assert say_next(["report", "--compare", str(run), str(other)]) == (
        "open the page; ropewalk sweep compares arms over seeds, in pairs"
    )
    told, text = json.loads(done.stdout), page.read_text()
    assert list(told["runs"]) == ["quickstart", "b<i>", "c"] and told["made"] == [str(page)]
    assert told["runs"]["quickstart"] == told["runs"]["b<i>"] and told["runs"]["c"] == []
    (note,) = told["notes"]
    assert note.startswith("the keys of evaluate: quickstart and c differ")
    assert "Comparison of 3 runs" in text and "b&lt;i&gt;" in text and "b<i>" not in text
    assert text.count("97.9 %") == 4 and "Nothing has been measured yet." in text and note in text
    same = write_comparison([run, other], page)
    assert same["notes"] == [] and "All runs were measured on the same things." in page.read_text()
    line = next(line for line in same["text"].splitlines() if "4x" in line)
    assert line.count("97.9 %") == 2


def test_cells_of_a_study_are_read_as_runs(run: Path, tmp_path: Path) -> None:
    """A cell measures one model, and calls it ``trained``."""
    told = write_comparison([run, copy(run, "b")], tmp_path / "out.html")["runs"]["b"]
    for name in ("one", "two"):
        path = copy(run, name) / "scores.json"
        scores = [score for score in json.loads(path.read_text()) if score["model"] == "extended"]
        path.write_text(json.dumps([{**score, "model": "trained"} for score in scores]))
    cells = write_comparison([run.parent / "one", run.parent / "two"], tmp_path / "out.html")["runs"]
    assert cells["one"] == cells["two"] == [verdict for verdict in told if verdict["model"] == "extended"]


def test_runs_of_one_name_are_told_apart_by_their_folders(run: Path, tmp_path: Path) -> None:
    other = copy(run, "elsewhere/quickstart")
    told = write_comparison([run, other], tmp_path / "out.html")
    assert list(told["runs"]) == [str(run), str(other)]


def test_what_cannot_be_compared_is_refused(run: Path, tmp_path: Path) -> None:
    page = tmp_path / "out.html"
    for folders, why in (([run], "one run is given"), ([run, run.parent / "." / run.name], "is given twice")):
        with pytest.raises(UserError) as refused:
            write_comparison(folders, page)
        assert why in refused.value.why
    with pytest.raises(UserError, match="this is not a run folder"):
        write_comparison([run, tmp_path], page)
    with pytest.raises(UserError, match="the page needs a file"):
        write_comparison([run, copy(run, "b")], tmp_path)
    for arguments in (["--compare", str(run), "--strict"], [str(run), "--out", str(page)]):
        done = CliRunner().invoke(app, ["report", *arguments])
        assert isinstance(done.exception, UserError) and "has no effect here" in done.exception.what
    assert not page.exists()
