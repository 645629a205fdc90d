"""Tables in a terminal, and text that would steer one."""

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
