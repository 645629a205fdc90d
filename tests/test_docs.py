"""Each page of the docs says in its first lines for whom it is."""

from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"


@pytest.mark.parametrize("path", sorted(DOCS.rglob("*.md")), ids=lambda path: str(path.relative_to(DOCS)))
def test_a_page_says_for_whom_it_is(path: Path) -> None:
    head = "\n".join(path.read_text(encoding="utf-8").splitlines()[:4])
    assert "This page is for " in head or "For maintainers." in head
