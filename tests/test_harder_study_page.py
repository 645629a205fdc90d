"""The page of the harder study has the tables of its results, which are of the study that ships, and its verdict."""

import importlib.util
import json
import math
from pathlib import Path
from typing import Any

import pytest

from ropewalk.recipe.sweep import load_sweep

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "2026-11-30-study-tasks.json"


@pytest.fixture(scope="module")
def program() -> Any:
    spec = importlib.util.spec_from_file_location("study_tasks", ROOT / "benchmarks" / "study_tasks.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(RESULTS.read_text())
    return found


def test_the_page_has_the_measured_tables(program: Any) -> None:
    page = (ROOT / "docs" / "harder-study.md").read_text()
    assert f"{program.BEGIN}{program.tabulate([RESULTS])}{program.END}" in page


def test_the_results_are_of_the_study_that_ships(results: dict[str, Any]) -> None:
    """Only the base's folder and the seeds that ended may differ."""
    sweep, _ = load_sweep(ROOT / "recipes" / "study-tasks.yaml")
    shipped, ours = sweep.model_dump(mode="json", exclude={"study"}), dict(results["sweep"])
    assert ours["overrides"][0].startswith("model=") and shipped["overrides"][0] == "model=tiny-base"
    assert ours["overrides"][1:] == shipped["overrides"][1:]
    assert set(ours["seeds"]) <= set(shipped["seeds"])
    assert {key: ours[key] for key in ours if key not in ("overrides", "seeds")} == {
        key: shipped[key] for key in shipped if key not in ("overrides", "seeds")
    }


def test_a_difference_is_taken_seed_by_seed(program: Any) -> None:
    """Two seeds by hand: differences of 0.2 and 0.4, so a mean of 0.3 and Student's half width of 12.7 x 0.1."""

    def table(at_base: float, at_target: float) -> dict[tuple[str, int], float]:
        return {
            (f"retrieval/{task}", tokens): value
            for task in program.TASKS
            for tokens, value in ((512, at_base), (2048, at_target))
        }

    cells = {
        ("base", "base"): {1: table(0.95, 0.1), 2: table(0.9, 0.1)},
        program.ALONE: {1: table(0.9, 0.5), 2: table(0.9, 0.4)},
        ("trained", "all"): {1: table(0.9, 0.7), 2: table(0.9, 0.8)},
    }
    value, low, high = program.difference(cells, ("trained", "all"), "key_value", 2048)
    assert value == pytest.approx(0.3) and (high - low) / 2 == pytest.approx(12.706205 * 0.1, rel=1e-4)
    assert program.read_tasks(cells) == list(program.TASKS)
    assert "`all` on 6" in program.judge(cells, 2048)
    cells["base", "base"][2]["retrieval/word_task_copy", 512] = 0.8
    assert len(program.read_tasks(cells)) == 5 and "rows to copy | 87.5" in program.tabulate_base(cells, 2048)
    one = {key: {1: of[1]} for key, of in cells.items()}
    assert math.isinf(program.difference(one, ("trained", "all"), "key_value", 2048)[2])
