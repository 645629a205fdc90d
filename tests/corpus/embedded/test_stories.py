"""The last chapter of a story with a recount: every hand-over again, far behind its first telling."""

import pytest

from ropewalk.corpus.embedded.registry import embedded_documents


@pytest.mark.parametrize(("name", "title"), [("stories_en", "The Ledger Read Aloud"), ("stories_zh", "账目重读")])
def test_a_recount_repeats_paragraphs_of_the_story(name: str, title: str) -> None:
    options = {"characters": [4600, 5300] if name == "stories_en" else [1600, 1800], "recount": True}
    for document in embedded_documents(name, seed=7, size_bytes=60_000, options=options):
        before, _, after = document.text.partition(title)
        again = [part for part in after.split("\n\n") if len(part) > 30 and part in before]
        assert len(again) >= 2
    plain = next(embedded_documents(name, seed=7, size_bytes=1, options={"characters": options["characters"]}))
    recounted = next(embedded_documents(name, seed=7, size_bytes=1, options=options))
    assert title not in plain.text and plain.text[:200] != recounted.text[:200]
