"""The list of fixes that are taken out (benchmarks/mutations.toml) is up to date, and the page has what it found."""

import json

import pytest

from programs import load_program

PARTS = ["A1", "A2", "A3", "A4", "A5", "A6", "A7", "B8", "B9", "B10", "B11", "B12", "C", "D"]


def test_each_part_has_mutations_and_what_was_tried_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    program = load_program("mutations", monkeypatch)
    every = program.read_mutations()
    assert [fault for mutation in every if (fault := mutation.find_fault())] == []
    assert list(dict.fromkeys(mutation.line for mutation in every)) == PARTS
    assert len({mutation.name for mutation in every}) == len(every) >= 100
    found = json.loads(program.RESULTS.read_text(encoding="utf-8"))["found"]
    assert [name for name, each in found.items() if each["outcome"] != program.NOTICED] == []
    page = program.PAGE.read_text(encoding="utf-8")
    assert [line for line in program.tabulate(every, found) if line not in page] == [], "run benchmarks/mutations.py"
