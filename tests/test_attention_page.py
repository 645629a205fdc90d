"""The figures in docs/attention-figures.md are those that the benchmarks printed."""

from pathlib import Path

import pytest

from programs import load_program

ROOT = Path(__file__).parents[1]
RESULTS = sorted((ROOT / "benchmarks" / "results").glob("2026-11-2[56]-[as]t*.jsonl"))


@pytest.mark.parametrize("results", RESULTS, ids=lambda path: path.stem)
def test_the_page_holds_the_table_of_the_results(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = load_program("tabulate_figures", monkeypatch)
    page = (ROOT / "docs" / "attention-figures.md").read_text(encoding="utf-8").splitlines()
    rows = list(program.tabulate(results))
    assert rows and not [row for row in rows if row not in page]
