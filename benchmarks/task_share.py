"""How fast tasks are put behind documents at the share that a recipe asks for: MB of documents a core-second.

    PYTHONPATH=src:tests python benchmarks/task_share.py DATA OUT.json [--rounds 3]      # DATA as for study_joins.py

Documents: laws, programs and a book, of about 20 KB and of about 400 KB (laws of one office and programs of one folder
joined). They are stored as ``prepare`` stores them, and `insert_tasks` is called as by ``prepare``: it reads tokens,
decodes them, finds words, asks, and encodes the questions. Three settings: 2 % of the tokens in every document, so that
each is read; 2 % in a fifth of the documents (the defaults of a recipe), where few are read and have five times as many
questions; and the test of ``task_answers.py``, 24 questions of eight families about each. Of a setting the shortest
of some rounds counts. The digest of all questions shows whether another version asks the same.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

import ropewalk
from joins_text import Text, missing_files, read_book, read_laws, read_programs
from ropewalk.core.artifact import write_whole
from ropewalk.core.digest import digest_value
from ropewalk.core.record import Document
from ropewalk.corpus.join.insert_tasks import insert_tasks
from ropewalk.corpus.join.places import unplaced
from ropewalk.corpus.join.task_text import read_terms
from ropewalk.corpus.join.tasks import make_task
from ropewalk.corpus.join.write_pieces import PieceTable, chain_groups, make_pieces
from ropewalk.corpus.task_rules import FAMILIES, TaskRules
from ropewalk.corpus.tokens.store import StoredDocuments, all_documents, open_shards, write_shards
from ropewalk.corpus.tokens.tokenizer import Tokenizer, load_tokenizer

SHORT, LONG = (15_000, 40_000), (350_000, 450_000)
"""Bytes of a document; long ones are joined until they have the first number."""
MOST_MB = 8.0
SETTINGS: dict[str, dict[str, float]] = {
    "2 % in every document": {"documents": 1.0},
    "2 % in a fifth of the documents (default)": {},
}
MUST_REACH = 20
_OF_EACH = 3
_SEED = 20


def join_long(texts: Iterable[Text]) -> Iterator[str]:
    """Neighbours of a group joined to long documents; what is left of a group is left out."""
    for _, group in groupby(texts, key=lambda each: each.name.rpartition("/")[0]):
        held, size = list[str](), 0
        for each in group:
            held.append(each.text)
            size += len(each.text.encode())
            if size >= LONG[0]:
                if size <= LONG[1]:
                    yield "\n\n".join(held)
                held, size = [], 0


def collect(data: Path) -> Iterator[tuple[str, str, str, list[str]]]:
    """(kind, size, language, texts)."""
    laws, programs = sorted(read_laws(data), key=lambda law: law.name), [*read_programs()]
    for kind, language, texts in (("law", "zh", laws), ("code", "code", programs)):
        yield kind, "20 KB", language, [text.text for text in texts if SHORT[0] <= len(text.text.encode()) <= SHORT[1]]
        yield kind, "400 KB", language, [*join_long(texts)]
    for size, characters in (("20 KB", 20_000), ("400 KB", 400_000)):
        yield "book", size, "en", [each.text for each in read_book(data, characters=characters)]


def take(texts: list[str], megabytes: float) -> list[str]:
    """The first of ``texts`` in an order that is drawn, up to ``megabytes``."""
    taken, size = list[str](), 0
    for number in np.random.default_rng(0).permutation(len(texts)).tolist():
        if size < 1e6 * megabytes:
            taken.append(texts[number])
            size += len(texts[number].encode())
    return taken


def store(texts: list[str], tokenizer: Tokenizer, folder: Path) -> tuple[PieceTable, StoredDocuments, np.ndarray]:
    """The texts as a stored source whose documents are not joined: its table, its documents and their digests."""
    folder.mkdir()
    read = (Document(text=text, id=str(at), source="x", role="general", language="") for at, text in enumerate(texts))
    written = tokenizer.encode_documents(read)
    write_shards(written, folder, vocabulary=tokenizer.vocabulary)
    documents = all_documents(open_shards(folder, vocabulary=tokenizer.vocabulary, manifest={}))
    digests = np.arange(len(texts), dtype=np.uint64)
    places = unplaced(digests)
    table = make_pieces(
        chain_groups(places.order, places.group[places.order]),
        tokens=documents.lengths,
        headers=places.headers,
        separator="",
        keeps_ends=False,
        trains_added=True,
        tokenizer=tokenizer,
    )
    return table, documents, digests


def ask(stored: tuple[PieceTable, StoredDocuments, np.ndarray], language: str, tokenizer: Tokenizer, rules: TaskRules,
        texts: list[str], rounds: int) -> dict[str, Any]:  # fmt: skip
    """What a setting costs, and what was asked."""
    seconds = []
    for _ in range(rounds):
        begin = time.process_time()
        made = insert_tasks(*stored, rules, language_of=lambda _: language, tokenizer=tokenizer, seed=_SEED)
        seconds.append(time.process_time() - begin)
    size = np.array([len(text.encode()) for text in texts]) / 1e6
    table = stored[0]
    asked = [*dict.fromkeys(record["document"] for record in made.records)]
    number = {int(joined): int(own) for joined, own in zip(table.rows[:, 0], table.rows[:, 1], strict=True)}
    asked_mb = float(sum(size[number[each]] for each in asked))
    tokens = int((made.table.rows[:, 3] - made.table.rows[:, 2]).sum())
    return {
        "mb_per_core_second": round(float(size.sum()) / min(seconds), 1),
        "of_asked_documents": round(asked_mb / min(seconds), 1),
        "questions": len(made.records),
        "questions_per_20_kb": round(len(made.records) / max(asked_mb, 1e-9) / 50, 2),
        "share_of_tokens": round(made.table.ledger.task_tokens / tokens, 4),
        "seconds": [round(each, 4) for each in seconds],
        "digest": digest_value(made.records)[:16],
    }


def ask_dense(texts: list[str], language: str, rounds: int) -> dict[str, Any]:
    """The test of task_answers.py: all families, three times each, about each text; nothing is decoded or encoded."""
    seconds = []
    for _ in range(rounds):
        begin, found, other = time.process_time(), [], None
        for number, text in enumerate(texts):
            random, known = np.random.default_rng([11, number]), read_terms(text, language)
            made = [make_task(known, family, random, other=other) for family in FAMILIES for _ in range(_OF_EACH)]
            found += [task._asdict() for task in made if task is not None]
            other = known
        seconds.append(time.process_time() - begin)
    size = sum(len(text.encode()) for text in texts) / 1e6
    return {"mb_per_core_second": round(size / min(seconds), 1), "questions": len(found),
            "questions_per_20_kb": round(len(found) / size / 50, 2),
            "seconds": [round(each, 4) for each in seconds], "digest": digest_value(found)[:16]}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--megabytes", type=float, default=MOST_MB)
    given = parser.parse_args()
    if missing := missing_files(given.data):
        print(f"skipped: {given.data} has no {', '.join(missing)}")
        return
    tokenizer = load_tokenizer(Path(ropewalk.__file__).parent / "model" / "tiny_base")
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for at, (kind, size, language, every) in enumerate(collect(given.data)):
            texts = take(every, given.megabytes)
            stored = store(texts, tokenizer, Path(folder) / str(at))
            facts = {"kind": kind, "size": size, "documents": len(texts),
                     "megabytes": round(sum(len(text.encode()) for text in texts) / 1e6, 2)}  # fmt: skip
            for setting, keys in SETTINGS.items():
                rules = TaskRules.model_validate({"from_tokens": 0, "most_tokens": 1 << 20, **keys})
                row = ask(stored, language, tokenizer, rules, texts, given.rounds)
                rows.append({**facts, "setting": setting, "must_reach": MUST_REACH, **row})
            rows.append({**facts, "setting": "24 questions about each", **ask_dense(texts, language, given.rounds)})
            for row in rows[-3:]:
                print(json.dumps(row), flush=True)
    write_whole(given.out, json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
