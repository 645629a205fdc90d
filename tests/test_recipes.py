"""Every shipped recipe parses, breaks no rule, and has a forecast."""

import math
import re
from pathlib import Path

import pytest

from ropewalk.commands.check import check_recipe
from ropewalk.commands.claim import read_base_shape
from ropewalk.recipe.load import load_recipe
from ropewalk.recipe.sweep import load_sweep

FILES = sorted((Path(__file__).parents[1] / "recipes").glob("*.yaml"))
TODAY = {
    "qwen3-8b-128k": (8_190_735_360, 36 * (2 * 4096 * 5120 + 3 * 4096 * 12288) + 4096 * 151936, 36 * 4096, 0),
    "gemma-3-12b-256k": (
        11_766_034_176,
        48 * (2 * 3840 * 6144 + 3 * 3840 * 15360) + 3840 * 262208,
        8 * 4096,
        40 * 4096 * 1024,
    ),
    "qwen3-30b-a3b-128k": (
        30_532_122_624,
        48 * (2 * 2048 * 4608 + 2048 * 128 + 8 * 3 * 2048 * 768) + 2048 * 151936,
        48 * 4096,
        0,
    ),
    "phi-4-64k": (14_659_507_200, 40 * (2 * 5120 * 6400 + 3 * 5120 * 17920) + 5120 * 100352, 40 * 5120, 0),
}
"""Bases that people stretch today, by hand: parameters of the text model, those that a token passes in matrices, the
width of all full layers' queries together, and that of the windowed layers times the window."""
STUDIES = [path for path in FILES if path.stem.startswith("study-")]
MILLION = {"qwen3-8b-1m", "qwen3-0.6b-1m"}  # test_recipes_1m.py
BASES = {
    path.stem for path in FILES if f"{path.name} --offline` needs no hub" in path.read_text()
}  # test_base_recipes.py
RECIPES = [path for path in FILES if path not in STUDIES and path.stem not in MILLION | BASES]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_shipped_recipe_breaks_no_rule(path: Path) -> None:
    recipe = load_recipe(path)
    if isinstance(recipe.model, str) and recipe.model.endswith("@main"):  # its shape is shipped, so no hub is needed
        recipe = load_recipe(path, [f"model={recipe.model.removesuffix('@main')}"])
    result = check_recipe(recipe)
    assert result["errors"] == 0, result["text"]
    broken = [finding for finding in result["findings"] if finding["source"] != "this machine"]  # its text is not here
    assert path.stem not in TODAY or broken == []
    if isinstance(recipe.model, str):
        assert len(result["plans"]) == len(recipe.stages)
        assert all(plan["fits"] for plan in result["plans"])
    if recipe.parallel.ranks > 2:
        assert recipe.hardware == "h100-sxm x 8", "its plan does not depend on the machine that reads it"
    if recipe.parallel.recompute == "full":
        slower = [re.search(r"slower than auto by (\d\.\d\d) x", plan["pinned"]) for plan in result["plans"]]
        assert all(found is not None and 1.02 <= float(found[1]) < 1.4 for found in slower), slower
    if path.stem.startswith("llama2"):
        assert sum(stage.tokens for stage in recipe.stages) == 20 * 10**9
        assert recipe.corpus.mix == {"general": 7, "domain": 2, "instruction": 1}
        assert "tokens/s" in result["text"]


@pytest.mark.parametrize("name", TODAY)
def test_a_recipe_of_today_is_forecast(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = FILES[0].with_name(f"{name}.yaml")
    base = str(load_recipe(path).model).removesuffix("@main")
    assert f"`ropewalk check recipes/{path.name} model={base}` needs no hub" in path.read_text()
    recipe = load_recipe(path, [f"model={base}"])
    plans, shape = check_recipe(recipe)["plans"], read_base_shape(recipe)
    assert f"the shape of {base} is the one that ropewalk ships" in capsys.readouterr().err
    parameters, passed, full_width, windowed = TODAY[name]
    assert shape is not None and shape.parameters == parameters
    for plan, stage in zip(plans, recipe.stages, strict=True):
        assert stage.context_length > shape.context_tokens or stage is not recipe.stages[-1]
        assert plan["fits"] and 3600 < plan["seconds"] < 7 * 86_400
        assert plan["flops"]["linear"] == pytest.approx(2 * passed, rel=1e-3)
        by_hand = 4 * (full_width * stage.context_length / 2 + windowed)  # a query reads half of its row in the mean
        assert plan["flops"]["attention"] == pytest.approx(by_hand, rel=5e-3)


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_no_cell_of_a_shipped_study_breaks_a_rule(path: Path) -> None:
    sweep, cells = load_sweep(path)
    trained = [cell for cell in cells if cell.kind == "trained"]
    assert len(trained) == len(sweep.seeds) * len(sweep.arms) * math.prod(map(len, sweep.axes.values()))
    for cell in trained:
        if cell.seed == sweep.seeds[0]:
            result = check_recipe(cell.recipe)
            assert result["errors"] == 0, result["text"]


def test_there_are_recipes() -> None:
    names = {path.stem for path in FILES}
    assert names >= set(TODAY) | MILLION | {
        "study-theta",
        "quickstart",
        "tiny-programme",
        "tiny-base",
        "llama2-7b-16k",
        "llama2-7b-32k",
        "llama2-7b-128k",
        "llama2-7b-128k-hybrid",
    }
