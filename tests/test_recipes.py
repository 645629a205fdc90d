"""Every shipped recipe parses, breaks no rule, and has a forecast."""

import json
import math
from pathlib import Path

import pytest

from llama2 import LLAMA2_7B
from ropewalk.commands.check import check_recipe
from ropewalk.recipe.load import load_recipe
from ropewalk.recipe.sweep import load_sweep

FILES = sorted((Path(__file__).parents[1] / "recipes").glob("*.yaml"))
STUDIES = [path for path in FILES if path.stem.startswith("study-")]
MILLION = {"qwen3-8b-1m", "qwen3-0.6b-1m"}  # test_recipes_1m.py
RECIPES = [path for path in FILES if path not in STUDIES and path.stem not in MILLION]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_shipped_recipe_breaks_no_rule(path: Path, tmp_path: Path) -> None:
    overrides = []
    if path.stem.startswith("llama2"):
        (tmp_path / "config.json").write_text(json.dumps(LLAMA2_7B))
        overrides = [f"model={tmp_path}"]
    recipe = load_recipe(path, overrides)
    result = check_recipe(recipe)
    assert result["errors"] == 0, result["text"]
    if isinstance(recipe.model, str):
        assert len(result["plans"]) == len(recipe.stages)
    if path.stem.startswith("llama2"):
        assert sum(stage.tokens for stage in recipe.stages) == 20 * 10**9
        assert recipe.corpus.mix == {"general": 7, "domain": 2, "instruction": 1}
        assert "tokens/s" in result["text"]


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
    assert names >= MILLION | {
        "study-theta",
        "quickstart",
        "tiny-programme",
        "tiny-base",
        "llama2-7b-16k",
        "llama2-7b-32k",
        "llama2-7b-128k",
        "llama2-7b-128k-hybrid",
    }
