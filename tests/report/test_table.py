"""Tables in a terminal, and text that would steer one."""

import unicodedata

import pytest

from ropewalk.report.table import Table, TableCell
from ropewalk.report.visible import show_all, show_hidden


def test_columns_line_up_also_with_wide_characters() -> None:
    table = Table(["source", "tokens", "ok"], [["法律", "1,200", TableCell("yes", "pass")], ["code", "7", ""]], "lrl")
    assert table.to_text() == "\n".join(
        [
            "source  tokens  ok",
            "------  ------  ---",
            "法律     1,200  yes",
            "code         7",
        ]
    )


def test_rows_must_fit_their_columns() -> None:
    with pytest.raises(AssertionError):
        Table(["a", "b"], [["1"]], "ll")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J", "\\x1b[2J"),
        ("a\nb", "a\\nb"),
        ("\u202egpj.exe", "\\u202egpj.exe"),
        ("\ud800", "\\ud800"),
        ("律师 <b> café", "律师 <b> café"),
    ],
)
def test_what_is_hidden_is_spelled_out(text: str, shown: str) -> None:
    assert show_hidden(text) == shown


def test_all_text_of_a_tree_is_shown_keys_too() -> None:
    assert show_all({"\x07": ["\x00", 1, None, {"a": True}]}) == {"\\x07": ["\\x00", 1, None, {"a": True}]}


WIDE = Table(
    ["measure", "base", "说明"],
    [
        ["loss, last quarter of 4x minus that of 1x [not [bold]markup]", "+3.445 nats", "越小越好" * 6],
        [TableCell("retrieval at 8x (4Ki, never trained)", "aim"), "25.6 %", "pass, ≤ 50 %"],
    ],
    "lrl",
)


def count_columns(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)


@pytest.mark.parametrize("room", [60, 80])
def test_a_narrow_terminal_folds_texts_and_never_numbers(room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = WIDE.to_text()
    assert len(plain.splitlines()) == 4 and "[not [bold]markup]  +3.445 nats  越小" in plain
    monkeypatch.setattr("ropewalk.report.table.find_room", lambda: room)
    folded = WIDE.to_text()
    assert len(folded.splitlines()) > 4 and max(map(count_columns, folded.splitlines())) <= room
    assert "+3.445 nats" in folded and " 25.6 %" in folded
    one, other = (sorted("".join(text.split()).replace("-", "")) for text in (plain, folded))
    assert one == other, "nothing is lost"


@pytest.mark.parametrize("room", [20, 500])
def test_a_table_that_fits_or_never_can_stays_as_it_is(room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = WIDE.to_text()
    monkeypatch.setattr("ropewalk.report.table.find_room", lambda: room)
    assert WIDE.to_text() == plain
