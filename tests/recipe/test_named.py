"""Recipes that ship are found by name from any folder; a trial is a short run of the same recipe."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from ropewalk.cli.main import app
from ropewalk.core.error import UserError
from ropewalk.recipe.fast_run import plan_trial
from ropewalk.recipe.load import load_recipe
from ropewalk.recipe.named import find_named, list_recipes

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


def test_the_command_tells_its_version_and_completes() -> None:
    told = CliRunner().invoke(app, ["--version"])
    assert told.exit_code == 0 and told.output.startswith("ropewalk 0.")
    assert "--show-completion" in CliRunner().invoke(app, ["--help"]).output
