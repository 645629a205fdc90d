"""Recipes that ship are found by name from any folder; a trial is a short run of the same recipe."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ropewalk.cli.main import app
from ropewalk.core.error import UserError
from ropewalk.recipe.fast_run import plan_trial
from ropewalk.recipe.load import (
    apply_override,
    load_recipe,
    parse_advice,
    parse_evaluate,
    parse_export,
    parse_recipe,
    parse_stage,
)
from ropewalk.recipe.named import find_named, is_recipe, list_recipes
from ropewalk.recipe.spec import Recipe

RECIPES = Path(__file__).parents[2] / "recipes"


def test_a_shipped_recipe_is_found_by_name_and_a_file_goes_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert list_recipes() == sorted(path.stem for path in RECIPES.glob("*.yaml"))
    assert load_recipe(Path("quickstart")) == load_recipe(RECIPES / "quickstart.yaml")
    for own in (Path("quickstart.yaml"), Path("recipes/quickstart"), Path("nothing")):
        assert find_named(own) == own
    Path("quickstart").mkdir()
    assert find_named(Path("quickstart")) == Path("quickstart")
    with pytest.raises(UserError) as refused:
        load_recipe(Path("quikstart"))
    assert "did you mean quickstart" in refused.value.fix


def test_a_trial_is_short_and_has_its_own_folder() -> None:
    whole = load_recipe(Path("quickstart"))
    short = load_recipe(Path("quickstart"), plan_trial(whole))
    assert short.run == "runs/quickstart-fast" and short.model == whole.model
    assert short.stages[0].tokens == 20 * 8192 and short.stages[0].rope == whole.stages[0].rope
    assert load_recipe(Path("quickstart"), plan_trial(short)).stages[0].tokens == short.stages[0].tokens
    assert (
        load_recipe(Path("quickstart"), plan_trial(whole.model_copy(update={"run": "runs/own/"}))).run
        == "runs/own-fast"
    )
    strictly = ["stages.0.gate={retrieval: 0.9}"]
    tried = load_recipe(Path("tiny-programme"), strictly + plan_trial(load_recipe(Path("tiny-programme"), strictly)))
    assert tried.stages[0].gate is not None and tried.stages[0].gate.otherwise == "warn"


@pytest.mark.parametrize(
    "keys",
    [
        {"stop": {"metric": "held_out/full", "saturated": 0.01, "max_steps": 200}, "validation": {"steps": 20}},
        {"rope_interpolation_steps": 100},
        {"layers": [{}, {"mixer": "gated_delta"}], "experimental": {"frozen_steps": 100}},
    ],
)
def test_what_needs_more_steps_than_a_trial_has_is_cut(keys: dict[str, Any]) -> None:
    data = load_recipe(Path("quickstart")).to_json()
    data["stages"][0] |= keys
    for override in plan_trial(parse_recipe(data, where="test")):
        apply_override(data, override)
    stage = parse_recipe(data, where="the trial").stages[0]
    assert stage.steps == 20 and stage.stop is None and stage.rope_interpolation_steps <= 20


def test_what_the_user_gives_goes_before_a_trial_s_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """The trial is planned with the user's keys, and these hold; the run is marked as a trial."""
    run: list[Recipe] = []

    def note(recipe: Recipe) -> dict[str, str]:
        run.append(recipe)
        return {"text": ""}

    monkeypatch.setattr("ropewalk.commands.run.run_recipe", note)
    given = ["run=runs/mine", "stages.0.step_tokens=4Ki", "evaluate.answers=70", "evaluate.ruler={tasks: [vt]}",
             "evaluate.benchmarks=[{kind: helmet_niah, path: needles.jsonl}]"]  # fmt: skip
    assert CliRunner().invoke(app, ["run", "quickstart", "--fast", *given]).exit_code == 0
    (trial,) = run
    assert (trial.run, trial.evaluate.answers, trial.stages[0].tokens) == ("runs/mine", 70, 20 * 4096)
    assert trial.trial and trial.evaluate.documents == 4
    own = load_recipe(Path("quickstart"), given)
    assert own.evaluate.ruler is not None and "evaluate.ruler.samples=2" in plan_trial(own)
    assert "evaluate.benchmarks.0.samples=2" in plan_trial(own)
    assert own.model_copy(update={"trial": True}).digest == own.digest


def test_the_command_tells_its_version_and_completes() -> None:
    told = CliRunner().invoke(app, ["--version"])
    assert told.exit_code == 0 and told.output.startswith("ropewalk 0.")
    assert "--show-completion" in CliRunner().invoke(app, ["--help"]).output


def test_only_recipes_are_offered_in_the_place_of_a_wrong_name(tmp_path: Path) -> None:
    """A manifest of Kubernetes, a file that is no YAML and a list are near by name, and no recipe."""
    (tmp_path / "k1.yaml").write_text("apiVersion: batch/v1\nkind: Job\n---\napiVersion: v1\nkind: Service\n")
    (tmp_path / "k2.yaml").write_text("apiVersion: v1\nkind: Service\n")
    (tmp_path / "k4.yaml").write_text("a: b: c\n")
    (tmp_path / "k5.yaml").write_text("- stages\n")
    for asked in (tmp_path / "k3.yaml", tmp_path):
        with pytest.raises(UserError) as refused:
            load_recipe(asked)
        assert "did you mean" not in refused.value.fix
    (tmp_path / "k6.yaml").write_text("model: tiny-base\nstages: []\nwrong: 1\n")
    for asked in (tmp_path / "k3.yaml", tmp_path):
        with pytest.raises(UserError) as refused:
            load_recipe(asked)
        assert refused.value.fix == f"did you mean {tmp_path / 'k6.yaml'}?"


@pytest.mark.parametrize(
    ("parse", "given", "meant"),
    [
        (lambda given: parse_evaluate(given, {"lengths": [1], "ruler": {"samples": 20}}),
         "evaluate.ruler.samples=1", "ruler.samples=1"),
        (parse_stage, "stages.0.rope.kind=theta", "rope.kind=theta"),
        (parse_advice, "stages.12.context_length=128Ki", "context_length=128Ki"),
        (parse_export, "export.dtype=bfloat16", "dtype=bfloat16"),
    ],
)  # fmt: skip
def test_a_key_with_its_place_is_refused_where_no_recipe_is_given(
    parse: Callable[[list[str]], object], given: str, meant: str
) -> None:
    others = ["context_length=64Ki", "rope.theta=1e6"] if parse is parse_stage else []
    with pytest.raises(UserError, match="is a key of a recipe") as refused:
        parse([*others, given])
    assert refused.value.fix == f"write {meant}"
    parse([*others, meant])


def test_a_name_that_no_disk_takes_is_no_recipe_and_no_traceback() -> None:
    """As the overrides of a study may be: the line after a command asks of each word if it is a recipe."""
    override = "arms={a: [" + 300 * "x" + "]}"
    assert find_named(Path(override)) == Path(override) and not is_recipe(Path(override))
    for name in ("a" * 300, "a" * 300 + ".yaml", "b" * 300 + "/a.yaml"):
        with pytest.raises(UserError):
            load_recipe(Path(name))
