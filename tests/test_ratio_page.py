"""The page of the ratio study says what its file holds, that file is of the shipped study, its text is drawn alike."""

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import zstandard

from programs import load_program
from ropewalk.recipe.sweep import load_sweep

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "2026-11-30-study-ratio.json"


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(RESULTS.read_text())
    return found


def test_the_page_has_the_measured_tables(results: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "ratio-study.md").read_text()
    program = load_program("study_ratio", monkeypatch)
    shown = load_program("page_tables", monkeypatch).read_tables(ROOT / "docs" / "ratio-study.md")
    assert shown == program.tabulate(results).strip("\n")
    picture = ROOT / "docs" / "ratio-study.png"
    assert "ratio-study.png" in page and 20_000 < picture.stat().st_size < 150_000


def test_the_file_is_of_the_study_that_ships(results: dict[str, Any]) -> None:
    sweep, cells = load_sweep(ROOT / "recipes" / "study-ratio.yaml")
    assert results["sweep"] == sweep.model_dump(mode="json", exclude={"study"})
    named = [(cell.kind, cell.arm, cell.choices, cell.seed) for cell in cells]
    found = [(c["kind"], c["arm"], c["choices"], c["seed"]) for c in results["cells"]]
    assert found == [each for each in named if each in found], "cells of the study, in its order"
    assert len({(cell["kind"], cell["recipe"]) for cell in results["cells"]}) == len(found)


def test_a_table_entry_follows_from_the_cells_by_hand(results: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    program = load_program("study_ratio", monkeypatch)
    places = {"trained": "7-2-1", "base": None}
    losses: dict[tuple[str, int], list[float]] = {}
    for cell in results["cells"]:
        if cell["choices"] == {"budget": "64K"} and places.get(cell["kind"], "") == cell["arm"]:
            values = {task: value for task, _, _, depth, _, value, *_ in cell["scores"] if depth is None}
            losses[cell["kind"], cell["seed"]] = [
                values[f"short/{name}"] for name, role in results["roles"].items() if role == "domain"
            ]
    seeds = [seed for kind, seed in losses if kind == "trained"]
    changes = [math.fsum(losses["trained", seed]) / math.fsum(losses["base", seed]) - 1 for seed in seeds]
    middle = math.fsum(changes) / len(changes)
    found = program.collect(results, program.list_measures(results)["domain"])["7-2-1", 64 << 10]
    assert program.mean_of(found)[0] == pytest.approx(middle, abs=1e-9)
    quantile = {1: math.inf, 2: 12.706205, 3: 4.302653}[len(seeds)]
    if len(seeds) > 1:
        spread = math.fsum((change - middle) ** 2 for change in changes) / (len(seeds) - 1)
        half = quantile * math.sqrt(spread / len(seeds))
        assert program.mean_of(found)[1] == pytest.approx(middle - half, abs=1e-6)


def test_text_is_drawn_alike_each_time_and_a_missing_file_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    program = load_program("ratio_text", monkeypatch)
    chapters = "".join(f"第{number}章 {'江山' * 40}{number}\r\n" for number in range(1, 8))
    (tmp_path / "books_zh.jsonl.zst").write_bytes(zstandard.compress(json.dumps({"text": chapters}).encode()))
    for name in ("one", "two"):
        program.write_sources(tmp_path, tmp_path / name)
    said = capsys.readouterr().out
    assert said.count("law_zh: skipped") == 2 and "novels_zh: 7 of 7 documents" in said
    one, two = ((tmp_path / name / "novels_zh.jsonl").read_text() for name in ("one", "two"))
    assert one == two and sorted(path.name for path in (tmp_path / "one").iterdir()) == ["novels_zh.jsonl"]
    found = Counter(json.loads(line)["text"] for line in one.splitlines())
    assert found == Counter(part.replace("\r\n", "\n").strip() for part in chapters.splitlines())
