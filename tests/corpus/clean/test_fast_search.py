"""Searches that jump from sign to sign find what the plain expressions find, on texts made of what they look for."""

import random
import re

import numpy as np
import pytest

from made_texts import sentence
from ropewalk.corpus.clean import boilerplate, pii
from ropewalk.corpus.clean.boilerplate import remove_boilerplate
from ropewalk.corpus.clean.pii import mask
from ropewalk.corpus.prepare.repeated_sections import _find_borders
from ropewalk.corpus.text.shingle import character_runs, find_words, mix_bits, shingles, window_hashes

LINES = [
    "目录 上一章 下一章",
    "next | prev",
    "Next page",
    "the end",
    "本章完。",
    "",
    "",
    "a next thing of the end, said the man",
]
NUMBERS = ["7", " - 12 -", "[3]", "12345", "　8　", "x9", "-", "3.5"]
PARTS = [
    *("a@b.cn", "@", "x.y+z@", "a-b.example.org", "é@", "@property", "joe.f@mail.net", " "),
    *("9.8.7.61", "v1.2.3.4", "1.2.3", "203.0.77.5", ".", "5.", ".6", "13912345678", "\n"),
]


def remove_slowly(text: str, kinds: tuple[boilerplate.Boilerplate, ...]) -> str:
    expression = re.compile("|".join(f"(?:{boilerplate._LINES[kind]})" for kind in kinds), re.IGNORECASE)
    signs = [sign for kind in kinds for sign in boilerplate._SIGNS[kind]]

    def goes(line: str) -> bool:
        says = any(sign in line.lower() for sign in signs)
        return 0 < len(line) <= 200 and says and expression.fullmatch(line.strip()) is not None

    return "\n".join(line for line in text.split("\n") if not goes(line))


@pytest.mark.parametrize("number", range(30))
def test_lines_of_a_site_go(number: int) -> None:
    draw = random.Random(number)
    lines = draw.choices(
        [*LINES, sentence(number, 9), *(["\u0130 next"] if number % 3 == 0 else [])], k=1 + number % 12
    )
    text = "\n".join(lines)
    kinds = ("chapter_markers", "navigation")
    assert remove_boilerplate([text], kinds) == [remove_slowly(text, kinds)]


@pytest.mark.parametrize("number", range(30))
def test_lines_of_numbers_are_found(number: int) -> None:
    text = "\n".join(random.Random(number).choices([*NUMBERS, *LINES], k=1 + number))
    expression = re.compile("^" + boilerplate._NUMBER_LINE, re.MULTILINE)
    found = [(match.span(), match.groups()) for match in boilerplate._numbered_lines(text)]
    assert found == [(match.span(), match.groups()) for match in expression.finditer(text)]


@pytest.mark.parametrize("number", range(60))
def test_every_match_holds_its_sign(number: int) -> None:
    draw = random.Random(number)
    text = "".join(draw.choices(PARTS, k=30)) if number % 2 else draw.choice(PARTS) + draw.choice(PARTS)
    for kind, form in pii._FORMS.items():
        slow = form.expression.sub(lambda found, form=form: pii._replace(form, found), text)
        assert mask(text, [kind]) == slow


def test_runs_have_the_hashes_of_their_windows() -> None:
    values = np.random.default_rng(0).integers(0, 1 << 63, 40, dtype=np.uint64)
    for width in (1, 2, 5, 40, 50):
        start = np.arange(max(1, 41 - width))
        assert np.array_equal(shingles(values, width), window_hashes(values, start, start + min(width, 40)))
    text = "abracadabra, abracadabra"
    runs = character_runs(text, 4)
    start = np.arange(len(text) - 3)
    points = np.array([*map(ord, text)], dtype=np.uint32)
    assert np.array_equal(mix_bits(runs), window_hashes(points, start, start + 4))
    assert len(character_runs("abc", 4)) == len(character_runs("", 4)) == 0
    assert len(find_words("abc").hashes) == 1


@pytest.mark.parametrize("number", range(10))
def test_units_end_where_sentences_and_lines_do(number: int) -> None:
    text = "".join(random.Random(number).choices([*"ab\n。！？.!? ", "。\n", ". ", "天"], k=300))
    slow = [match.end() for match in re.finditer(r"[\n。！？]|[.!?](?= )", text)]
    assert _find_borders(text).tolist() == slow + [len(text)] * (slow[-1:] != [len(text)])
