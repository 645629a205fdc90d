"""The page of shipped shapes has the table that the shipped files give."""

from pathlib import Path

import pytest

from programs import load_program
from ropewalk.shape.shipped import read_sources

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "bases.md"


def read_rows(table: str) -> dict[str, str]:
    return {line.split("|")[1].strip(" `"): line for line in table.splitlines()[2:]}


def test_the_page_lists_every_shipped_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    program = load_program("tabulate_bases", monkeypatch)
    shown = read_rows(load_program("page_tables", monkeypatch).read_tables(PAGE, "bases"))
    found = read_rows(program.tabulate())
    assert list(shown) == list(found) and set(found) == set(read_sources())
    stale = [name for name in found if shown[name] != found[name] and program.WAITING not in shown[name]]
    assert stale == [], "run python benchmarks/tabulate_bases.py"
