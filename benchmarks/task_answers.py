"""Tasks about real documents: is every answer right, does it stand far from its question, and how fast are they made?

    PYTHONPATH=src:tests python benchmarks/task_answers.py DATA OUT.json --tasks 10000      # DATA as for study_joins.py

Laws, programs and a book are asked about. Answers are found again by another program: that of the tests, and for
headings one that reads line by line.
"""

import argparse
import json
import re
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from corpus.join.test_tasks import check
from joins_text import missing_files, read_book, read_laws, read_programs
from ropewalk.core.artifact import write_whole
from ropewalk.corpus.join.task_text import Text, read_terms
from ropewalk.corpus.join.tasks import Task, make_task
from ropewalk.corpus.task_rules import FAMILIES

FEWEST_CHARACTERS = 8000
OF_EACH = 3
"""Tasks of a family about a document."""
_QUOTES = {"mention", "recall", "overwrite", "heading"}


def find_over(text: str, at: int, answer: str) -> bool:
    """Whether ``answer`` is the last line of its kind up to a character: the lines so far, from the last one back."""
    numbered = re.match("第[^第 ]{1,9}?([编章回条])", answer)
    kind = "条" if numbered and numbered[1] == "条" else "编章回"
    for line in reversed(text[:at].split("\n")):
        head = line.strip().lstrip("#").strip()
        if numbered and re.match(f"第[零〇一二两三四五六七八九十百千0-9]+[{kind}]", head):
            return head.startswith(answer)
        if not numbered and head == answer:
            return True
        if re.match(rf"(class|def|async def|func|fn|function|struct)\s+{re.escape(answer)}\b", line):
            return True
    return False


def find_last_setting(text: str, key: str) -> str | None:
    """What stands behind the last line ``key = value`` or ``key: value``."""
    found = None
    for line in text.split("\n"):
        rest = line.strip().removeprefix(key).strip()
        if line.strip().startswith(key) and rest[:1] in ("=", ":", "：") and rest[1:2] not in ("=", ""):
            found = rest[1:].strip() if not rest.startswith("://") else found
    return found


def is_right(text: Text, language: str, task: Task) -> bool:
    """Whether the answer is found again."""
    if task.family == "heading":
        word = task.about[0]
        return find_over(text.text, text.text.index(word), task.answer)
    if task.family == "overwrite":
        return find_last_setting(text.text, task.about[0]) == task.answer
    try:
        check(text.text, "zh" if language == "zh" else "en", task)
    except AssertionError:
        return False
    return True


def ask_all(data: Path) -> Iterator[tuple[str, str, Text, list[Task], float]]:
    """(source, language, text, tasks, seconds) of each document in turn, one of each source."""
    sources = {
        "law": ("zh", (each for each in read_laws(data))),
        "code": ("code", read_programs()),
        "book": ("en", read_book(data, characters=20_000)),
    }
    other: dict[str, Text] = {}
    number = 0
    while sources:
        for name, (language, texts) in [*sources.items()]:
            text = next((each.text for each in texts if len(each.text) >= FEWEST_CHARACTERS), None)
            if text is None:
                del sources[name]
                continue
            random = np.random.default_rng([11, number])
            number += 1
            begin = time.process_time()
            known = read_terms(text, language)
            made = [
                make_task(known, family, random, other=other.get(name)) for family in FAMILIES for _ in range(OF_EACH)
            ]
            yield name, language, known, [task for task in made if task is not None], time.process_time() - begin
            other[name] = known


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--tasks", type=int, default=10_000)
    given = parser.parse_args()
    if missing := missing_files(given.data):
        print(f"skipped: {given.data} has no {', '.join(missing)}")
        return
    made, right, wrong, near = Counter[str](), Counter[str](), list[dict[str, str]](), 0
    bytes_read, seconds = Counter[str](), Counter[str]()
    for name, language, text, tasks, spent in ask_all(given.data):
        bytes_read[name] += len(text.text.encode())
        seconds[name] += spent
        for task in tasks:
            made[f"{name} {task.family}"] += 1
            right[f"{name} {task.family}"] += (good := is_right(text, language, task))
            if not good:
                wrong.append({"source": name, **{key: str(value) for key, value in task._asdict().items()}})
            near += task.family in _QUOTES and text.text.find(task.answer) > text.early
        if sum(made.values()) >= given.tasks:
            break
    rates = {name: bytes_read[name] / 1e6 / seconds[name] for name in seconds}
    row = {
        "tasks": sum(made.values()),
        "right": sum(right.values()),
        "answers in the last quarter": near,
        "by family": {key: [right[key], made[key]] for key in sorted(made)},
        "mb_per_core_second": rates | {"all": sum(bytes_read.values()) / 1e6 / sum(seconds.values())},
        "wrong": wrong[:20],
    }
    write_whole(given.out, json.dumps(row, indent=1, ensure_ascii=False) + "\n")
    print(json.dumps(row, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
