"""Puts tasks behind long documents, before their end, until they are the wanted share of a source's tokens.

They are tokens of their own beside the store, so another share is another table. What was asked is written down.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt64

from ropewalk.core.seed import stream
from ropewalk.corpus.join.tasks import Task, Text, make_task, read_terms
from ropewalk.corpus.join.write_pieces import Added, PieceTable
from ropewalk.corpus.task_rules import TaskRules
from ropewalk.corpus.text.language import language_kind
from ropewalk.corpus.tokens.store import StoredDocuments
from ropewalk.corpus.tokens.tokenizer import Tokenizer

_LANGUAGES = {"en": "en", "zh": "zh", "code": "en"}
_TRIES = 6
_ABOUT_ALL_ABOVE = ("count", "mention", "overwrite")
"""Families whose answer would be another one if their word stood once more behind the document."""


def insert_tasks(
    table: PieceTable,
    documents: StoredDocuments,
    digests: UInt64[np.ndarray, "documents"],
    rules: TaskRules,
    *,
    language_of: Callable[[int], str],
    tokenizer: Tokenizer,
    seed: int,
) -> tuple[PieceTable, list[dict[str, Any]]]:
    """The table with tasks, and a record of each task: document, family, about, question, answer.

    ``documents`` are all stored ones; ``language_of`` gives the language of one; ``digests`` draw, with ``seed``.
    """
    added, records = [*table.added], list[dict[str, Any]]()
    blocks, done, before, spent = list[Int64[np.ndarray, "_ 5"]](), 0, 0, 0
    other: Text | None = None
    for joined, first, last in _list_documents(table):
        rows = table.rows[first:last]
        tokens = int((rows[:, 3] - rows[:, 2]).sum())
        before += tokens
        number = int(rows[rows[:, 1] < table.stored][0, 1])
        language = _LANGUAGES.get(language_kind(language_of(number)))
        random = stream("tasks", seed, int(digests[number]))
        if language is None or tokens < rules.from_tokens or random.random() >= rules.documents:
            continue
        text = read_terms(_read_text(rows, table, documents, tokenizer), language)
        asked: set[tuple[str, ...]] = set()
        said = ""
        own: list[tuple[int, int]] = []
        misses = 0
        while spent < rules.share * (before + spent) and misses < _TRIES * len(rules.families):
            family = rules.families[int(random.integers(len(rules.families)))]
            task = make_task(text, family, random, other=other)
            if task is None or (family, *task.about) in asked or _is_changed(task, said):
                misses += 1
                continue
            asked.add((family, *task.about))
            said += f"{task.question}\n{task.answer}\n".lower()
            for words, trained in ((f"\n\n{task.question}\n", rules.loss == "all"), (task.answer, True)):
                ids = tokenizer.encode_inside(words).astype(np.int64)
                own.append((table.stored + len(added), len(ids)))
                added.append(Added(ids, trained))
                spent += len(ids)
            records.append({"document": joined, **task._asdict()})
        other = text
        if own:
            new = np.array([[joined, number, 0, size, 0] for number, size in own], dtype=np.int64)
            end = table.rows[last - 1].copy()  # the row with the EOS
            end[2], end[4] = end[3] - 1, 0
            cut = table.rows[last - 1].copy()
            cut[3] -= 1
            blocks += [table.rows[done : last - 1], cut[None], new, end[None]]
            done = last
    made = np.concatenate([*blocks, table.rows[done:]])
    ledger = replace(table.ledger, tasks=len(records), task_tokens=spent)
    return PieceTable(made[made[:, 2] < made[:, 3]], tuple(added), table.stored, ledger), records


def _is_changed(task: Task, said: str) -> bool:
    """Whether earlier tasks behind the same document, in lower case, change the answer: they hold its word too."""
    return task.family in _ABOUT_ALL_ABOVE and any(word.lower() in said for word in task.about)


def _list_documents(table: PieceTable) -> Iterator[tuple[int, int, int]]:
    """(number, first row, last row + 1) of each joined document."""
    borders = np.flatnonzero(np.diff(table.rows[:, 0], prepend=-1, append=-1)).tolist()
    for first, last in pairwise(borders):
        yield int(table.rows[first, 0]), first, last


def _read_text(
    rows: Int64[np.ndarray, "_ 5"], table: PieceTable, documents: StoredDocuments, tokenizer: Tokenizer
) -> str:
    """The text of a joined document, without BOS and EOS."""
    ids = [
        documents.read(number, begin, end)[0]
        if number < table.stored
        else table.added[number - table.stored].ids[begin:end]
        for _, number, begin, end, _ in rows.tolist()
    ]
    return tokenizer.decode(np.concatenate(ids)[int(tokenizer.bos_id is not None) : -1])
