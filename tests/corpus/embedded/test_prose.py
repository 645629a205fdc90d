"""Prose that is trained on: whole, without templates, and strange to the essays that measure what a model forgets."""

import re
from collections.abc import Iterable

import pytest

from ropewalk.core.error import UserError
from ropewalk.core.record import Document
from ropewalk.corpus.embedded import embedded_documents, read_foreign_documents

HAN = re.compile(r"[\u4e00-\u9fff]")
RUN = 12


def read(**options: object) -> list[Document]:
    return list(embedded_documents("prose_zh", seed=0, options=options))


def runs_of(documents: Iterable[Document]) -> set[str]:
    """Every run of 12 Han characters within a document, punctuation and all else left out."""
    runs: set[str] = set()
    for document in documents:
        text = "".join(HAN.findall(document.text))
        runs.update(text[i : i + RUN] for i in range(len(text) - RUN + 1))
    return runs


def test_no_run_of_the_held_out_essays_is_trained_on() -> None:
    essays = list(read_foreign_documents("essays_zh"))
    prose = runs_of(read())
    assert len(prose) > 25_000 and not prose & runs_of(essays)
    borrowed = Document("他说，" + essays[0].text[:40], "prose_zh", "general", "zh", "borrowed")
    assert runs_of([borrowed]) & runs_of(essays), "the check finds one borrowed sentence"


def test_no_two_documents_share_a_run() -> None:
    documents = read()
    assert sum(len(runs_of([document])) for document in documents) == len(runs_of(documents))


def test_there_are_many_documents_of_many_lengths_and_characters() -> None:
    texts = [document.text for document in read()]
    assert len(texts) >= 60 and len({character for text in texts for character in text}) > 1_900
    assert sum(map(len, texts)) > 30_000
    lengths = sorted(map(len, texts))
    assert lengths[0] < 200 and lengths[-5] > 1_200


def test_kinds_are_parts_of_the_whole() -> None:
    kinds = ["knowledge", "life", "long", "opinion", "public", "tales"]
    parts = [document.id for kind in kinds for document in read(kinds=[kind])]
    assert sorted(parts) == sorted(document.id for document in read())
    assert all(len(document.text) > 1_200 for document in read(kinds=["long"]))


@pytest.mark.parametrize("kinds", [[], ["tales", "tales"], ["poems"]])
def test_wrong_kinds_are_refused(kinds: list[str]) -> None:
    with pytest.raises(UserError, match="cannot take these options"):
        read(kinds=kinds)
