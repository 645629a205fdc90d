"""The page of the study says what its file holds, its file is of the study that ships, and what it concludes is so."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from programs import load_program
from ropewalk.recipe.sweep import load_sweep

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "2026-11-24-study-theta.json"


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(RESULTS.read_text())
    return found


def test_the_page_has_the_measured_tables(results: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "theta.md").read_text()
    program = load_program("study_theta", monkeypatch)
    shown = load_program("page_tables", monkeypatch).read_tables(ROOT / "docs" / "theta.md")
    assert shown == program.tabulate(results).strip("\n")
    picture = ROOT / "docs" / "theta.png"
    assert "theta.png" in page and 20_000 < picture.stat().st_size < 150_000


def test_the_file_is_of_the_study_that_ships(results: dict[str, Any]) -> None:
    sweep, cells = load_sweep(ROOT / "recipes" / "study-theta.yaml")
    later = {
        "vary": {},
        "draw": None,
        "draw_seed": 0,
        "prune": None,
        "ray": None,
    }  # keys that came after this study ran
    assert results["sweep"] | later == sweep.model_dump(mode="json", exclude={"study"})
    named = [(cell.kind, cell.arm, cell.choices, cell.seed) for cell in cells]
    assert [(c["kind"], c["arm"], c["choices"], c["seed"]) for c in results["cells"]] == named
    assert all(len(cell["recipe"]) == 32 and cell["scores"] for cell in results["cells"])
    digests = {(cell["kind"], cell["recipe"]) for cell in results["cells"]}
    assert len(digests) == len(cells)


def test_a_table_entry_follows_from_the_cells_by_hand(results: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    program = load_program("study_theta", monkeypatch)
    found = program.read(results, "4x")["trained", "yarn"]
    values = [
        value
        for cell in results["cells"]
        if (cell["kind"], cell["arm"], cell["choices"]) == ("trained", "yarn", {"length": "4x"})
        for task, _, tokens, depth, _, value, *_ in cell["scores"]
        if (task, tokens, depth) == ("retrieval/key_value", 2048, None)
    ]
    mean = sum(values) / 3
    half = 4.302653 * math.sqrt(sum((value - mean) ** 2 for value in values) / 2 / 3)
    assert len(values) == 3
    assert found.retrieval[2048] == pytest.approx((mean, max(0.0, mean - half), min(1.0, mean + half)), abs=1e-5)
    assert program.read(results, "8x")["base", "base"].short[0] == 0
