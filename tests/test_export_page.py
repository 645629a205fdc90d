"""The pages say of other readers what a program measured, and a command is printed where it was found to work."""

import json
from pathlib import Path

import pytest

from programs import load_program

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "2026-11-24-readers.jsonl"


@pytest.mark.parametrize("page", ["rope-composition.md", "export.md"])
def test_the_page_has_the_measured_table(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, tabulate = load_program("tabulate_readers", monkeypatch).TABLES[page]
    assert tabulate(RESULTS) in (ROOT / "docs" / page).read_text()


def test_a_command_is_printed_exactly_where_the_engine_ran_the_same_model() -> None:
    rows = [json.loads(line) for line in RESULTS.read_text().splitlines()]
    asked = [row for row in rows if "command_printed" in row]
    assert len(asked) > 50 and {row["verdict"] for row in asked} == {"same", "other logits", "refuses loudly"}
    assert [row for row in asked if row["command_printed"] != (row["verdict"] == "same")] == []


def test_every_method_reloads_with_the_same_logits_here() -> None:
    rows = [json.loads(line) for line in RESULTS.read_text().splitlines()][1:]
    here = [row for row in rows if row["peer"] in (rows[0]["peer"], "ropewalk.model.load.load_model")]
    same = {row["case"] for row in here if row["verdict"] == "same"}
    assert {row["case"] for row in here} == same and all(row.get("difference", 0) <= 1e-5 for row in here)
