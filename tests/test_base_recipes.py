"""The recipes for today's bases break no rule, fit, and cost what docs/recipes.md says."""

import re
from pathlib import Path
from typing import Any

import pytest

from programs import load_program
from ropewalk.plan.forecast import forecast_recipe
from ropewalk.plan.named_hardware import check_hardware
from ropewalk.recipe.check import check

FOLDER = Path(__file__).parents[1] / "recipes"


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Any:
    return load_program("tabulate_recipes", monkeypatch)


def find_base_recipes() -> list[Path]:
    paths = sorted(FOLDER.glob("*.yaml"))
    return [path for path in paths if f"{path.name} --offline` needs no hub" in path.read_text()]


def test_a_recipe_of_a_base_breaks_no_rule_and_fits(table: Any) -> None:
    paths = find_base_recipes()
    assert len(paths) == 23
    for path in paths:
        found = table.read_recipe(path)
        assert found is not None, path.stem
        recipe, shape = found
        plans = forecast_recipe(recipe, shape)
        assert [str(each) for each in check(recipe, shape)] == [], path.stem
        assert list(check_hardware(recipe, plans[0].machine)) == [], path.stem
        assert len(plans) == len(recipe.stages) and all(plan.fits for plan in plans), path.stem
        assert recipe.run == f"runs/{path.stem}" and recipe.stages[-1].context_length >= shape.context_tokens
        kept = recipe.stages[-1].context_length == shape.context_tokens
        assert (recipe.stages[-1].rope.kind == "unchanged") == kept, "text alone is new, or the length too"
        assert (recipe.parallel.ranks == 1) == ("lora" in path.stem) == (recipe.stages[0].lora is not None)


def test_the_page_says_what_a_recipe_costs(table: Any) -> None:
    """Each figure to a quarter, so that not every change of the plan makes the page anew."""
    page = table.PAGE.read_text()
    rows = [line.split("|") for line in page.splitlines() if line.startswith("| `")]
    shown = {cells[1].strip(" `"): cells for cells in rows}
    for path in sorted(FOLDER.glob("*.yaml")):
        found = table.read_recipe(path)
        if found is None:
            assert path.stem not in shown
            continue
        row = table.plan_row(path.stem, *found)
        cells = [cell.strip() for cell in shown.pop(path.stem)]
        assert cells[2:6] == [row.base, row.lengths, row.trained, str(row.ranks)], path.stem
        for cell, hours in zip(cells[7:9], row.hours, strict=True):
            assert 0.75 < float(re.sub(",", "", cell)) / hours < 1.25, f"{path.stem}: benchmarks/tabulate_recipes.py"
    assert shown == {}
