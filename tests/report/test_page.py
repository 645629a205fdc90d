"""The page as a person and a browser get it: whole or partial runs, and text that would like to be markup."""

from pathlib import Path

from ropewalk.report.page import summarise, write_report


def test_a_whole_run_gives_a_small_page_with_every_section(run: Path) -> None:
    page = write_report(run)
    assert page == run / "report.html"
    text = page.read_text()
    assert len(text) < 1_000_000
    for anchor in (
        "done",
        "rope",
        "ledger",
        "mixture",
        "training",
        "position",
        "retrieval",
        "short",
        "speed",
        "parity",
    ):
        assert f'<section id="{anchor}">' in text
    assert 'class="note"' not in text and "All 9 targets are met." in text


def test_the_terminal_gets_the_same_lines(run: Path) -> None:
    summary = summarise(run)
    assert (summary["targets_met"], summary["targets_set"]) == (9, 9)
    assert "retrieval at 8x (4Ki, never trained)" in summary["text"]
    assert max(map(len, summary["text"].splitlines())) <= 120
