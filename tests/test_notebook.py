"""The notebook is stored without outputs, imports what exists, and its recipe holds.

benchmarks/run_notebook.py runs it as a whole.
"""

import ast
import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import ropewalk
from programs import load_program
from ropewalk.recipe.spec import Recipe

NOTEBOOK = Path(__file__).parents[1] / "examples" / "stretch.ipynb"


@pytest.fixture
def cells(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    found: list[str] = load_program("run_notebook", monkeypatch).read_cells(NOTEBOOK)
    return found


def test_it_is_stored_as_it_was_written() -> None:
    held = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert (held["nbformat"], held["nbformat_minor"]) == (4, 5)
    code = [cell for cell in held["cells"] if cell["cell_type"] == "code"]
    assert len(code) >= 8 and all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert len({cell["id"] for cell in held["cells"]}) == len(held["cells"])


def test_every_name_that_it_takes_from_ropewalk_exists(cells: list[str]) -> None:
    trees = [ast.parse(cell) for cell in cells]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            assert all(hasattr(import_module(str(node.module)), alias.name) for alias in node.names), node.module
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "ropewalk":
            assert hasattr(ropewalk, node.attr), node.attr


def test_its_recipe_is_a_short_quickstart(cells: list[str]) -> None:
    (cell,) = [cell for cell in cells if "load_recipe" in cell]
    names: dict[str, Any] = {"Path": Path, "ropewalk": ropewalk}
    exec(cell.partition("print(")[0], names)
    recipe = names["recipe"]
    assert isinstance(recipe, Recipe) and recipe.run == "runs/notebook" and recipe.stages[0].steps == 30
    assert recipe.evaluate.position_lengths * 512 == recipe.stages[0].context_length, "the context gain is measured"
