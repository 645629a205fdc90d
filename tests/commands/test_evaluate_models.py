"""``ropewalk evaluate MODEL``: any folder, alone or against a base that is read once."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import ropewalk.evaluate.evaluate
from ropewalk.cli.main import app
from ropewalk.commands.evaluate_models import evaluate_folder
from ropewalk.core.error import UserError
from ropewalk.evaluate.items import Sums
from ropewalk.recipe.suite import find_suite
from ropewalk.shape.find import TINY_BASE

NAME = "grid/lookup/repeated"
GRID = "grid={prompts: 1, tasks: [lookup], fillers: [repeated]}"
SMALL = ["lengths=[1]", "answers=4", "short_tokens=600", "abilities=2", "depths=2", GRID]


def test_the_base_is_read_once_whatever_it_is_compared_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    true_measure = ropewalk.evaluate.evaluate.measure_model

    def count(folder: Path, planned: object, *, name: str, precision: object) -> list[Sums]:
        read.append(name)
        return true_measure(folder, planned, name=name, precision=precision)  # type: ignore[arg-type]

    monkeypatch.setattr("ropewalk.evaluate.evaluate.measure_model", count)
    monkeypatch.setattr("ropewalk.commands.evaluate_models.on_ranks", lambda work, ranks, *args: work(*args))
    asked = {"base": "tiny-base", "suite": "quick", "store": tmp_path / "store"}
    first = evaluate_folder(TINY_BASE, SMALL, **asked)  # type: ignore[arg-type]
    assert read == ["base"], "the model is the same folder"
    again = evaluate_folder(TINY_BASE, SMALL, **asked)  # type: ignore[arg-type]
    assert read == ["base"] and again == first
    evaluate_folder(TINY_BASE, [*SMALL, "seed=5"], **asked)  # type: ignore[arg-type]
    assert read == ["base", "base"], "other prompts are another measurement"
    changes = [score for score in first["scores"] if score["task"].startswith("change/foreign/")]
    assert len(changes) == 2 and all(score["value"] == 0 and score["model"] == "model" for score in changes)
    (forgotten,) = (each for each in first["verdicts"] if each["key"] == "foreign/worst")
    assert (forgotten["outcome"], forgotten["value"]) == ("met", 0)
    assert "worst text (essays_" in first["text"], "which text it is"
    assert {line.split()[1] for line in first["text"].splitlines() if "/" in line.split(" ")[0]} >= {
        "accuracy",
        "nats",
        "change",
    }
    assert "retrieval/key_value" in first["text"] and "change/foreign/essays_en" in first["text"]
    cells = first["text"].partition("fact at 25%")[2].splitlines()
    assert cells[0].split() == ["fact", "at", "75%"], "the cells of the grid, and below them the verdicts"
    names = [[task, "512", model] for task in (NAME, f"answer_loss/{NAME}") for model in ("base", "model")]
    assert [line.split()[:3] for line in cells[2 : 2 + len(names)]] == names


def test_a_suite_reaches_the_length_of_the_model() -> None:
    assert find_suite("quick", base_tokens=512, reach_tokens=2048)["lengths"] == [1, 2, 4]
    assert find_suite("ruler", base_tokens=512, reach_tokens=3000)["lengths"] == [1, 2, 4]
    assert len(find_suite("full", base_tokens=512, reach_tokens=512)["probes"]) == 16
    with pytest.raises(UserError, match="no suite 'all'"):
        find_suite("all", base_tokens=512, reach_tokens=512)
    with pytest.raises(UserError, match="no suite 'all'"):  # and not that the packaged base is no model
        evaluate_folder(Path("tiny-base"), [], base=None, suite="all", store=Path("none"))


def test_the_verb_takes_a_folder_and_refuses_a_suite_for_a_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {}

    def keep(model: Path, overrides: list[str], **options: object) -> dict[str, object]:
        given.update(options, model=model, overrides=overrides)
        return {"scores": [], "text": ""}

    monkeypatch.setattr("ropewalk.commands.evaluate_models.evaluate_folder", keep)
    done = CliRunner().invoke(app, ["evaluate", str(TINY_BASE), "answers=8", "--base", "tiny-base", "--json"])
    assert done.exit_code == 0 and json.loads(done.stdout) == {"scores": []}
    assert (given["base"], given["suite"], given["overrides"]) == ("tiny-base", "quick", ["answers=8"])
    refused = CliRunner().invoke(app, ["evaluate", "recipe.yaml", "--suite", "full"])
    assert isinstance(refused.exception, UserError) and "own base" in refused.exception.what


@pytest.mark.parametrize("override", ["documents=4", "position_lengths=4", "context_law=true"])
def test_a_key_that_needs_a_corpus_is_refused(override: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no effect here"):
        evaluate_folder(TINY_BASE, [override], base=None, suite="quick", store=tmp_path)
