"""The page of shipped shapes has the table that the shipped files give."""

import importlib.util
from pathlib import Path
from typing import Any

from ropewalk.shape.shipped import read_sources

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "bases.md"


def load_program() -> Any:
    spec = importlib.util.spec_from_file_location("tabulate_bases", ROOT / "benchmarks" / "tabulate_bases.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read_rows(table: str) -> dict[str, str]:
    return {line.split("|")[1].strip(" `"): line for line in table.splitlines()[2:]}


def test_the_page_lists_every_shipped_shape() -> None:
    program = load_program()
    page = PAGE.read_text()
    shown = read_rows(page.partition(program.BEGIN)[2].partition(program.END)[0])
    found = read_rows(program.tabulate())
    assert list(shown) == list(found) and set(found) == set(read_sources())
    stale = [name for name in found if shown[name] != found[name] and program.WAITING not in shown[name]]
    assert stale == [], "run python benchmarks/tabulate_bases.py"
