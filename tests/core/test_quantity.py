"""Counts as people write them, there and back."""

import ast
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ropewalk.core import quantity
from ropewalk.core.quantity import format_amount, format_bytes, format_count, format_length, parse_count


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("16Ki", 16384),
        ("20B", 20 * 10**9),
        ("1e6", 10**6),
        (4096, 4096),
        (2e5, 200_000),
        ("1.5M", 1_500_000),
        ("4_096", 4096),
    ],
)
def test_counts_are_read(text: object, count: int) -> None:
    assert parse_count(text) == count


@pytest.mark.parametrize("text", ["16ki", "16 KiB", "", "many", "1.5", 0.5, True, None, "-4"])
def test_what_is_no_count_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match=r"count|whole"):
        parse_count(text)


@given(st.integers(1, 2**40))
def test_a_length_survives_printing(tokens: int) -> None:
    assert parse_count(format_length(tokens)) == tokens


def test_amounts_have_three_figures() -> None:
    assert [format_amount(n) for n in (999, 20_971_520, 20e9)] == ["999", "21M", "20B"]
    assert [format_amount(n) for n in (1e15, 2.5e16, 999.9e12)] == ["1,000T", "25,000T", "1,000T"], "no unit beyond"
    assert [format_amount(n) for n in (999_600, -999.7, 99_960)] == ["1M", "-1K", "100K"], "as it can be typed"
    assert [format_bytes(n) for n in (512, 1536, 3 * 2**30)] == ["512 B", "1.5 KiB", "3 GiB"]
    assert [format_bytes(n) for n in (1023, 1000 << 20, (1 << 30) - 1)] == ["1023 B", "1000 MiB", "1 GiB"]


def test_one_thing_is_not_told_as_several() -> None:
    assert [format_count(number, "file") for number in (0, 1, 2048)] == ["0 files", "1 file", "2,048 files"]
    told = [format_count(2, noun) for noun in ("process", "copy", "key", "held-out point", "match")]
    assert told == ["2 processes", "2 copies", "2 keys", "2 held-out points", "2 matches"]


SRC = Path(quantity.__file__).parents[1]
_ALWAYS_SEVERAL = re.compile(r"(of|to|than|over|of the last) $")
"""Before a count: ``2 of 7 layers``, ``1 to 16 words``, ``fewer than 8 documents``."""


def find_bare_plurals(path: Path) -> Iterator[str]:
    """F-strings in which a plural follows the length of something, which may be 1."""
    for found in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        parts = found.values if isinstance(found, ast.JoinedStr) else []
        for number, (hole, after) in enumerate(pairwise(parts)):
            if not isinstance(hole, ast.FormattedValue) or not isinstance(after, ast.Constant):
                continue
            call = hole.value
            counts = isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "len"
            before = str(parts[number - 1].value) if number and isinstance(parts[number - 1], ast.Constant) else ""
            plural = re.match(r" ([a-z-]+ )?(?!(is|has|was|lies|needs) )[a-z]+s\b", str(after.value))
            if counts and plural and not _ALWAYS_SEVERAL.search(before):
                yield f"{path.name}:{hole.lineno}: {ast.unparse(found)}"


def test_what_is_counted_has_a_singular() -> None:
    assert [line for path in sorted(SRC.rglob("*.py")) for line in find_bare_plurals(path)] == []


def test_a_bare_plural_is_found(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text('f"{len(a)} long files, {len(b):,} keys; 1 of {len(c)} layers, {len(d)} is many"\n')
    assert len(list(find_bare_plurals(tmp_path / "a.py"))) == 2
