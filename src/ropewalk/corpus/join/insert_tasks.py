"""Puts tasks behind long documents, before their end, until they are the wanted share of a source's tokens.

They are tokens of their own beside the store, so another share is another table. What was asked is written down.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64, UInt64

from ropewalk.core.seed import stream
from ropewalk.corpus.join.task_text import Text, read_terms
from ropewalk.corpus.join.tasks import Task, make_task
from ropewalk.corpus.join.write_pieces import Added, PieceTable
from ropewalk.corpus.join.written_questions import QuestionWriter
from ropewalk.corpus.task_rules import TaskRules
from ropewalk.corpus.text.language import language_kind
from ropewalk.corpus.tokens.store import StoredDocuments
from ropewalk.corpus.tokens.tokenizer import Tokenizer

_LANGUAGES = ("en", "zh", "code")
_TRIES = 6
_ABOUT_TOKENS, _MOST_TOGETHER = 40, 64
"""Tokens of a task, before one is known, and tasks that are encoded together."""
_ABOUT_ALL_ABOVE = ("count", "mention", "overwrite", "frequent")
"""Families whose answer would be another one if their word stood once more behind the document."""


@dataclass(slots=True)
class _Budget:
    """The tokens of tasks so far, ``spent``, and how many there may be: a share of all, with ``before`` of text."""

    share: float
    before: int
    spent: int

    @property
    def left(self) -> float:
        return self.share * (self.before + self.spent) - self.spent

    @property
    def is_left(self) -> bool:
        return self.spent < self.share * (self.before + self.spent)


class InsertedTasks(NamedTuple):
    """A table with tasks, and a record of each: document, family, about, question, answer; of a question that a model
    wrote also the model and the digest of the request."""

    table: PieceTable
    records: list[dict[str, Any]]


def insert_tasks(
    table: PieceTable,
    documents: StoredDocuments,
    digests: UInt64[np.ndarray, "documents"],
    rules: TaskRules,
    *,
    language_of: Callable[[int], str],
    tokenizer: Tokenizer,
    seed: int,
    writer: QuestionWriter | None = None,
) -> InsertedTasks:
    """Put tasks behind the documents of a table.

    ``documents`` are all stored ones; ``language_of`` gives the language of one; ``digests`` draw, with ``seed``;
    ``writer`` asks a model, if the rules say so. Raises UserError where it does not answer.
    """
    added, records = [*table.added], list[dict[str, Any]]()
    blocks, done, before, spent = list[Int64[np.ndarray, "_ 5"]](), 0, 0, 0
    other: Text | None = None
    for joined, first, last in _list_documents(table):
        rows = table.rows[first:last]
        tokens = int((rows[:, 3] - rows[:, 2]).sum())
        before += tokens
        number = int(rows[rows[:, 1] < table.stored][0, 1])
        language = language_kind(language_of(number))
        random = stream("tasks", seed, int(digests[number]))
        fits = language in _LANGUAGES and rules.from_tokens <= tokens <= rules.most_tokens
        if not fits or random.random() >= rules.documents:
            continue
        text = read_terms(_read_text(rows, table, documents, tokenizer), language)
        budget = _Budget(rules.share, before, spent)
        tasks = _encode_tasks(_make_tasks(text, rules, random, other, writer), tokenizer, budget)
        own: list[Added] = []
        while budget.is_left and (found := next(tasks, None)) is not None:
            task, question, answer = found
            tokens += len(question) + len(answer)
            if tokens > rules.most_tokens:
                break
            own += [Added(question, rules.loss == "all"), Added(answer, True)]
            budget.spent += len(question) + len(answer)
            records.append({"document": joined, **task})
        other, spent = text, budget.spent
        if own:
            blocks += [table.rows[done : last - 1], *_open_end(rows[-1], joined, own, table.stored + len(added))]
            added += own
            done = last
    made = np.concatenate([*blocks, table.rows[done:]])
    ledger = replace(table.ledger, tasks=len(records), task_tokens=spent)
    return InsertedTasks(PieceTable(made[made[:, 2] < made[:, 3]], tuple(added), table.stored, ledger), records)


def _open_end(
    last: Int64[np.ndarray, "5"], joined: int, own: Sequence[Added], number: int
) -> list[Int64[np.ndarray, "_ 5"]]:
    """The last row of a document, with added tokens, numbered from ``number`` on, before its EOS."""
    new = np.array([[joined, number + at, 0, len(each.ids), 0] for at, each in enumerate(own)], dtype=np.int64)
    end, cut = last.copy(), last.copy()
    end[2], end[4] = end[3] - 1, 0
    cut[3] -= 1
    return [cut[None], new, end[None]]


def _make_tasks(
    text: Text, rules: TaskRules, random: np.random.Generator, other: Text | None, writer: QuestionWriter | None
) -> Iterator[dict[str, Any]]:
    """Tasks about a text, until it gives no more: first those that a model wrote. Nothing is asked before the first one
    is wanted."""
    asked: set[tuple[str, ...]] = set()
    said, misses = "", 0
    if writer is not None and rules.written is not None:
        for each in writer.write(text):
            said += f"{each.question}\n{each.answer}\n".lower()
            yield {"family": "written", "about": [], **each._asdict(), "model": rules.written.model}
    while misses < _TRIES * len(rules.families):
        family = rules.families[int(random.integers(len(rules.families)))]
        task = make_task(text, family, random, other=other)
        if task is None or (family, *task.about) in asked or _is_changed(task, said):
            misses += 1
            continue
        asked.add((family, *task.about))
        said += f"{task.question}\n{task.answer}\n".lower()
        yield task._asdict()


def _encode_tasks(
    tasks: Iterator[dict[str, Any]], tokenizer: Tokenizer, budget: _Budget
) -> Iterator[tuple[dict[str, Any], Int64[np.ndarray, "_"], Int64[np.ndarray, "_"]]]:
    """Tasks with the tokens of question and answer. They are encoded together: as many as the budget has room for, if
    they are as long as those before. What is made beyond it is not asked."""
    each = float(_ABOUT_TOKENS)
    while group := [*islice(tasks, max(1, min(_MOST_TOGETHER, int(budget.left / each))))]:
        texts = [text for task in group for text in (f"\n\n{task['question']}\n", task["answer"])]
        ids = tokenizer.encode_all_inside(texts)
        each = sum(map(len, ids)) / len(group)
        yield from zip(group, ids[::2], ids[1::2], strict=True)


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
