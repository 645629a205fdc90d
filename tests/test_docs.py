"""Each page of the docs says in its first lines for whom it is, and is no longer than a reader's patience."""

from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"


PAGES = sorted(DOCS.rglob("*.md"))
MOST_WORDS = 1500


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(DOCS)))
def test_a_page_says_for_whom_it_is(path: Path) -> None:
    head = "\n".join(path.read_text(encoding="utf-8").splitlines()[:4])
    assert ("本页面向" if path.parent.name == "zh" else "This page is for ") in head or "For maintainers." in head


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(DOCS)))
def test_a_page_is_short(path: Path) -> None:
    """Tables are counted out: most are printed by programs. The log only grows, and the glossary is a table."""
    lines = path.read_text(encoding="utf-8").splitlines()
    words = sum(len(line.split()) for line in lines if not line.startswith("|"))
    assert words <= MOST_WORDS or path.name == "log.md"
