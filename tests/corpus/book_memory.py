"""How often one document as large as a library is held, measured in a process whose calls nobody else watches.

Type checks hold the arguments of a call until it returns; the texts that are let go in between are counted here.

    python book_memory.py FOLDER TOKENIZER
"""

import json
import sys
import tracemalloc
from pathlib import Path

from made_texts import sentence
from ropewalk.corpus.clean import long_document_quality, quality
from ropewalk.corpus.prepare import repeated_sections
from ropewalk.corpus.prepare.build import build
from ropewalk.corpus.read import archive, json_file
from ropewalk.corpus.read.source import read_source
from ropewalk.corpus.spec import CorpusSpec, Source
from ropewalk.corpus.text import blocks, language
from ropewalk.corpus.tokens.tokenizer import Tokenizer, load_tokenizer

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


def read_book(path: Path) -> int:
    """Read the one document of ``path``; the most bytes that Python held on the way."""
    tracemalloc.start()
    try:
        for _ in read_source(Source(name="book", path=str(path), role="general", language="en"), seed=0):
            return tracemalloc.get_traced_memory()[1]
        raise AssertionError("no document")
    finally:
        tracemalloc.stop()


def main() -> None:
    """Print how many copies of four bytes a character are held of a book with an emoji, and of one with a repeat.

    And while it is read alone as a file of JSON.
    """
    folder, tokenizer = Path(sys.argv[1]), load_tokenizer(Path(sys.argv[2]))
    for place in (blocks, language):
        place._BLOCK_CHARACTERS = 1 << 14
    for place in (quality, long_document_quality):
        place._WINDOW_CHARACTERS = 1 << 12
    repeated_sections._PART_CHARACTERS = json_file.LONG_BYTES = archive._CHUNK_BYTES = 1 << 14
    lines = [f"{sentence(number, 150)}." for number in range(60)]
    pages = ["\n".join(f"{number} {line}" for line in lines) for number in range(CHARACTERS // len("".join(lines)))]
    build_book(folder / "first", pages[0], tokenizer)  # tables that are made once
    small = build_book(folder / "small", pages[1], tokenizer)
    book = "\n".join([*pages[::2], "\U0001f600", *pages[1::2]])
    texts = {"plain": book, "repeated": f"{book}\n{pages[0]}\n{pages[1]}"}
    copies = {name: build_book(folder / name, text, tokenizer) - small for name, text in texts.items()}
    copies["file"] = read_book((folder / "plain" / "book.jsonl").rename(folder / "book.json"))
    print(json.dumps({name: size / (4 * len(book)) for name, size in copies.items()}))


if __name__ == "__main__":
    main()
