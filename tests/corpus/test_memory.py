"""One document as large as a library passes: no step holds its text more often than needed."""

import json
import tracemalloc
from pathlib import Path

import pytest

from made_texts import sentence
from ropewalk.corpus import blocks, language, sections
from ropewalk.corpus.build import build
from ropewalk.corpus.spec import CorpusSpec
from ropewalk.corpus.tokenize import Tokenizer

CHARACTERS = 1_500_000


def build_book(folder: Path, text: str, tokenizer: Tokenizer) -> int:
    """Read, clean, search for sections, sign and tokenise ``text``; the most bytes that Python held on the way."""
    folder.mkdir()
    (folder / "book.jsonl").write_text(json.dumps({"text": text}, ensure_ascii=False) + "\n", encoding="utf-8")
    del text
    source = {"name": "book", "path": str(folder / "book.jsonl"), "role": "general", "language": "en"}
    keys = {"store": str(folder / "store"), "sources": [source], "mix": {"book": 1}, "worker_count": 1, "held_out": 0}
    tracemalloc.start()
    try:
        build(CorpusSpec.model_validate(keys), tokenizer=tokenizer, seed=0, folder=folder / "corpus")
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_book_with_an_emoji_is_held_three_times_at_most(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four bytes a character then: as it was read and as it is mended, in pieces, or as line and value of its JSON."""
    for place, name in (
        (blocks, "_BLOCK_CHARACTERS"),
        (language, "_BLOCK_CHARACTERS"),
        (sections, "_PART_CHARACTERS"),
    ):
        monkeypatch.setattr(place, name, 1 << 14)
    lines = [f"{sentence(number, 150)}." for number in range(60)]
    pages = ["\n".join(f"{number} {line}" for line in lines) for number in range(CHARACTERS // len("".join(lines)))]
    build_book(tmp_path / "first", pages[0], tokenizer)  # tables that are made once
    small = build_book(tmp_path / "small", pages[1], tokenizer)  # arrays of one window
    book = "\n".join([*pages[::2], "\U0001f600", *pages[1::2]])
    copies = (build_book(tmp_path / "large", book, tokenizer) - small) / (4 * len(book))
    assert 2 < copies < 3
