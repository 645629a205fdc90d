"""The glossary is true: each recipe key and each file that it names exists, and its terms are in order, each once."""

import re
from pathlib import Path

from ropewalk.recipe.explain import find_places
from ropewalk.recipe.spec import Recipe

ROOT = Path(__file__).parents[1]
ROWS = [
    line for line in (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8").splitlines() if line.startswith("| ")
]
TERMS = [row.split("|")[1].strip() for row in ROWS[1:]]


def test_every_key_and_file_exists() -> None:
    keys = {place for places in find_places(Recipe).values() for place in places}
    named = [row.split("|")[4] for row in ROWS[1:]]
    for found in (each for cell in named for each in re.findall(r"`([^`]+)`", cell)):
        if re.fullmatch(r"(corpus|stages\[\]|parallel|evaluate|export)\.\w+", found):
            assert found in keys, f"no key {found}"
        elif "/" in found:
            assert (ROOT / "src" / "ropewalk" / found).exists(), f"no file {found}"


def test_terms_are_in_order_and_stand_once() -> None:
    assert sorted(set(TERMS), key=str.casefold) == TERMS and len(TERMS) > 50
