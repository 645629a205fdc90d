"""The page of the harder study has the tables of its results, which are of the study that ships, and its verdict."""

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from programs import load_program
from ropewalk.recipe.sweep import load_sweep

ROOT = Path(__file__).parents[1]
RESULTS = {
    study: ROOT / "benchmarks" / "results" / f"2026-11-30-{study}.json" for study in ("study-tasks", "study-tasks-16x")
}


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return load_program("study_tasks", monkeypatch)


def read_results(study: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(RESULTS[study].read_text())
    return found


def test_the_page_has_the_measured_tables(program: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = load_program("page_tables", monkeypatch).read_tables(ROOT / "docs" / "harder-study.md")
    assert shown == program.tabulate(list(RESULTS.values())).strip("\n")


@pytest.mark.parametrize("study", RESULTS)
def test_the_results_are_of_the_study_that_ships(study: str) -> None:
    """Only the base's folder and the seeds that ended may differ."""
    sweep, _ = load_sweep(ROOT / "recipes" / f"{study}.yaml")
    shipped, ours = sweep.model_dump(mode="json", exclude={"study"}), read_results(study)["sweep"]
    assert ours["overrides"][0].startswith("model=") and shipped["overrides"][0] == "model=tiny-base"
    assert ours["overrides"][1:] == shipped["overrides"][1:]
    assert set(ours["seeds"]) <= set(shipped["seeds"])
    assert {key: ours[key] for key in ours if key not in ("overrides", "seeds")} == {
        key: shipped[key] for key in shipped if key not in ("overrides", "seeds")
    }


def test_the_mean_over_seeds_and_the_verdict_follow_by_hand(program: ModuleType) -> None:
    """Differences of 0.1 and 0.3 with errors of 0.03 and 0.04: 0.2 with an error of 0.025."""

    def table(at_base: float, at_target: float) -> dict[tuple[str, int], float]:
        return {
            (f"retrieval/{task}", tokens): value
            for task in program.TASKS
            for tokens, value in ((512, at_base), (2048, at_target))
        }

    def row(seed: int, task: str, tokens: int, value: float, error: float) -> dict[str, Any]:
        where = {"arm": "all", "seed": seed, "task": f"retrieval/{task}", "tokens": tokens}
        return where | {"value": value, "error": error, "freedom": 20, "prompts": 10}

    cells = {
        ("base", "base"): {1: table(0.95, 0.1), 2: table(0.9, 0.1)},
        program.ALONE: {1: table(0.9, 0.5), 2: table(0.9, 0.4)},
        ("trained", "all"): {1: table(0.9, 0.6), 2: table(0.9, 0.7)},
    }
    seeds = ((1, 0.1, 0.03), (2, 0.3, 0.04))
    pairs = [row(seed, task, 2048, *found) for task in program.TASKS for seed, *found in seeds]
    results = {"pairs": pairs}
    found = program.find_difference(results, "all", "key_value", 2048)
    assert (found.value, found.error, found.samples) == pytest.approx((0.2, 0.025, 20))
    assert "| key-value | 45.0 | 65.0 (+20.0 ±" in program.tabulate_arms(results, cells, 2048)
    assert program.read_tasks(cells) == list(program.TASKS) and "`all` on 4" in program.judge(
        results, program.read_tasks(cells), 2048
    )
    cells["base", "base"][2]["retrieval/word_task_copy", 512] = 0.8
    assert "`all` on 3" in program.judge(results, program.read_tasks(cells), 2048), (
        "a task that the base does not read does not count"
    )
    assert "rows to copy | 87.5" in program.tabulate_base(cells, 2048)


@pytest.mark.parametrize("study", RESULTS)
def test_pairs_are_of_the_scores_that_stand_beside_them(program: ModuleType, study: str) -> None:
    """A mean of paired differences is the difference of two shares, of which the cells have each."""
    results = read_results(study)
    cells, pairs, sweep = program.read(results), results["pairs"], results["sweep"]
    lengths = {row["tokens"] for row in pairs}
    assert len(pairs) == len(sweep["seeds"]) * len(sweep["arms"]) * len(program.TASKS) * len(lengths)
    for row in pairs:
        place = row["task"], row["tokens"]
        ours, alone = cells["trained", row["arm"]][row["seed"]], cells[program.ALONE][row["seed"]]
        assert row["value"] == pytest.approx(ours[place] - alone[place], abs=2e-6)
