"""Searches that jump from sign to sign find what the plain expressions find, on texts made of what they look for."""

import random
import re
from itertools import groupby

import numpy as np
import pytest

from made_texts import sentence
from ropewalk.corpus.clean import boilerplate, pii
from ropewalk.corpus.clean.boilerplate import remove_boilerplate
from ropewalk.corpus.clean.pii import mask
from ropewalk.corpus.clean.quality import _count_repeats
from ropewalk.corpus.prepare.repeated_sections import _find_borders
from ropewalk.corpus.text.blocks import is_few_letters, join_repeats
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
    *("139-1234-5678", "186 1234 5670", "110105199003072338", "44010620011224001X", "19", "20", "-----BEGIN"),
    *(
        " RSA PRIVATE KEY-----",
        "-----END PRIVATE KEY-----",
        "AKIAQ3EGWLXYZ7H2K4MN",
        "ghp_" + "Zx9k" * 9,
        "sk-",
        "task-",
    ),
    *(
        "sk-proj-" + "aB3_" * 8,
        "hf_" + "Qw" * 17,
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0.c2lnbmF0dXJlLXNpZ25hdHVyZQ",
        "xoxb-",
    ),
    *("xoxp-" + "1a-B" * 6, "AIza" + "x-_0" * 9, "glpat-" + "ab_C" * 5, "github_pat_" + "a1B2c3" * 11),
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


@pytest.mark.parametrize("number", range(20))
def test_few_letters_are_counted_and_runs_are_found(number: int) -> None:
    draw = random.Random(number)
    lines = [
        *(
            "",
            "=" * 30,
            "a_b_c d-e f.g h|i j",
            "abcdefghijkl",
            "abcdefghijk",
            "天地玄黄宇宙洪荒日月盈",
            "x\t" * 20,
            "½²Ⅷ٣" * 3,
        ),
        *("|" + "abcdefghijklm|x", "word " * 9),
    ]
    for line in lines:
        cells = re.split(r"[|\t]", line)
        assert is_few_letters(line) == all(sum(map(str.isalnum, cell)) < 12 for cell in cells), line
    text = [line for line in draw.choices(lines, k=12) for _ in range(draw.choice([1, 1, 3, 4, 6]))]
    slow: list[str] = []
    for line, same in groupby(text):
        copies = len(list(same))
        slow += [line] * (1 if copies >= 4 and not is_few_letters(line) else copies)
    assert "".join(join_repeats(["\n".join(text)])) == "\n".join(slow)


@pytest.mark.parametrize("length", [0, 31, 32, 33, 100, 256, 257, 400])
def test_repeats_of_short_texts_are_those_of_their_hashes(length: int) -> None:
    text = ("ab天" * 200)[: length // 2] + "".join(random.Random(length).choices("ab", k=length - length // 2))
    runs = [text[at : at + 32] for at in range(len(text) - 31)]
    assert _count_repeats(text) == len(runs) - len(set(runs))
