"""The Chinese pages show the commands, recipes and outputs of the English ones, and have all terms of the glossary."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
PAGES = [page for page in sorted((DOCS / "zh").glob("*.md")) if page.name not in ("index.md", "glossary.md")]
BLOCK = re.compile(r"^ *```\w*\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
NOT_TRANSLATED = {"multimodal.md"}
"""How-tos that are not translated."""


def find_english(name: str) -> Path:
    return next(page for folder in ("tutorial", "how-to") if (page := DOCS / folder / name).is_file())


def read_blocks(page: Path) -> list[str]:
    """The blocks of code, without comments, which are translated."""
    blocks = BLOCK.findall(page.read_text(encoding="utf-8"))
    return [re.sub(r"[ \t]+#.*", "", block).strip().replace("\n    ", "\n") for block in blocks]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_same_is_shown(page: Path) -> None:
    assert read_blocks(page) == read_blocks(find_english(page.name))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_same_tables_and_headings(page: Path) -> None:
    def count(path: Path) -> tuple[int, int]:
        text = BLOCK.sub("", path.read_text(encoding="utf-8"))
        return len(re.findall(r"^\|", text, re.MULTILINE)), len(re.findall(r"^#+ ", text, re.MULTILINE))

    assert count(page) == count(find_english(page.name))


def test_the_same_messages_are_explained() -> None:
    def find(path: Path, label: str) -> list[str]:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if re.search(label, line)]
        return sorted(each for line in lines for each in re.findall(r"`([^`\n]+)`", line))

    english = find(DOCS / "how-to" / "troubleshoot.md", "Messages?: `")
    assert find(DOCS / "zh" / "troubleshoot.md", "报错：`") == english


def test_every_tutorial_and_how_to_is_translated_or_named() -> None:
    english = {page.name for folder in ("tutorial", "how-to") for page in (DOCS / folder).glob("*.md")}
    assert {page.name for page in PAGES} | NOT_TRANSLATED == english


def test_the_glossary_has_all_terms() -> None:
    def terms(path: Path) -> list[str]:
        lines = path.read_text(encoding="utf-8").splitlines()
        return [line.split("|")[1].strip() for line in lines if line.startswith("| ")][1:]

    assert terms(DOCS / "zh" / "glossary.md") == terms(DOCS / "glossary.md")
