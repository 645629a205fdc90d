"""What joins and tasks give on real text: the same base, texts and tokens, and only the rules of the corpus differ.

    python benchmarks/study_joins.py DATA OUT --budget 14      # again and again, until nothing is left
    python benchmarks/study_joins.py DATA OUT --table docs/corpus-joins-study.md

**joins**: related texts in one document against the same texts at random, and against texts of one law or folder.
The measure is context gain on text that no arm has read, the same for all arms: the loss of a document's last quarter
with the base's window, minus the loss with the whole document. **tasks**: tasks of half of the families behind
documents against the same documents without; the other families are asked. Differences are taken seed by seed, with
Student's 95 % interval. Every finished arm is a file in OUT, and another start goes on with the next one.
DATA is a folder with ``law_zh.jsonl.zst`` and ``books_en.jsonl.zst``; without them the program says so and ends.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from joins_text import (
    SHORT,
    WHOLE,
    Text,
    choose,
    cut_chapters,
    missing_files,
    read_book,
    read_laws,
    read_programs,
    write,
)
from joins_train import ask, make_corpus, measure_gain, open_base, open_rows, read_tokenizer, train
from page_tables import write_tables
from ropewalk.core.artifact import FolderInUseError, hold, write_whole
from ropewalk.corpus.task_rules import FAMILIES, TaskRules
from ropewalk.evaluate.score import mean

SEEDS = (1, 2, 3)
ROWS, ROWS_A_STEP = 600, 4
SHORT_TOKENS, WHOLE_TOKENS = (240_000, 90_000), (160_000, 60_000)
DOCUMENTS = 24
"""Documents of a kind that are measured."""
RESULTS = Path(__file__).parent / "results" / "2026-11-30-study-joins.json"
JOINS: Mapping[str, dict[str, Any]] = {
    "random": {"related": {"target_tokens": "2Ki", "control": True}},
    "related": {"related": {"target_tokens": "2Ki"}},
    "keys": {"by": "group", "order": ["name", "at"]},
}
TASKS: Mapping[str, dict[str, Any] | None] = {
    "plain": None,
    "tasks": {"share": 0.05, "documents": 0.6, "from_tokens": 600, "most_tokens": "2Ki"},
}
ASKED = tuple(family for family in FAMILIES if family not in TaskRules().families)
Cell = dict[str, Any]


def write_texts(data: Path, out: Path) -> None:
    """The files that both studies read, if they are not there."""
    if (out / "texts" / "done").exists():
        return
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = read_tokenizer()

    def count(text: str) -> int:
        return len(tokenizer.encode(text))

    made: dict[str, tuple[list[Text], list[Text]]] = {
        "law": choose(cut_chapters(read_laws(data)), SHORT, SHORT_TOKENS, count),
        "code": choose(read_programs(), SHORT, SHORT_TOKENS, count),
        "whole-law": choose(read_laws(data), WHOLE, WHOLE_TOKENS, count),
        "whole-code": choose(read_programs(), WHOLE, WHOLE_TOKENS, count),
        "whole-book": choose(read_book(data), WHOLE, WHOLE_TOKENS, count),
        "long-law": choose(read_laws(data), (2100, 8000), (0, 80_000), count),
        "long-code": choose(read_programs(), (2100, 8000), (0, 80_000), count),
    }
    for name, halves in made.items():
        for half, texts in zip(("train", "asked"), halves, strict=True):
            write(texts, out / f"{name}-{half}.jsonl")
            print(f"{name}-{half}: {len(texts)} texts of {len({text.group for text in texts})} groups", flush=True)
    (out / "texts").mkdir(exist_ok=True)
    (out / "texts" / "done").touch()


def read_texts(out: Path, name: str) -> list[str]:
    return [json.loads(line)["text"] for line in (out / f"{name}-asked.jsonl").read_text().splitlines()]


def run_joins(out: Path, arm: str, seed: int) -> Cell:
    """One arm of the study of joins."""
    tokenizer = read_tokenizer()
    asked = make_corpus(out, "joins-asked", _join_sources("asked", JOINS["related"]), tokenizer)
    texts: dict[str, list[np.ndarray]] = {}
    for name in asked.sources:
        documents = asked.train(name)
        long = [n for n in range(len(documents)) if documents.lengths[n] >= 3 * 2048 // 4][:DOCUMENTS]
        texts[f"related {name}"] = [documents.read(n)[0] for n in long]
        texts[f"one long {name}"] = [tokenizer.encode(text) for text in read_texts(out, f"long-{name}")[:DOCUMENTS]]
    corpus = make_corpus(out, f"joins-{arm}", _join_sources("train", JOINS[arm]), tokenizer)
    dataset = open_rows(corpus, ROWS, seed)
    told = {f"epochs of {name}": value for name, value in dataset.repeats.items()}
    told |= {f"documents of {name}": corpus.facts(name).documents for name in corpus.sources}
    kept = out / f"joins-{arm}-{seed}.safetensors"
    learner, spent = train(open_base(out), dataset, seed, rows_a_step=ROWS_A_STEP, kept=kept)
    return {**told, **spent, **measure_gain(learner, texts)}


def _join_sources(half: str, join: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"name": name, "path": f"{name}-{half}.jsonl", "join": join} for name in ("law", "code")]


def run_tasks(out: Path, arm: str, seed: int) -> Cell:
    """One arm of the study of tasks."""
    tokenizer = read_tokenizer()
    languages = {"law": "zh", "code": "code", "book": "en"}
    tasks = TASKS[arm]
    sources = [
        {"name": name, "path": f"whole-{name}-train.jsonl", "language": language, **({"tasks": tasks} if tasks else {})}
        for name, language in languages.items()
    ]
    corpus = make_corpus(out, f"tasks-{arm}", sources, tokenizer)
    dataset = open_rows(corpus, ROWS, seed)
    told = {f"epochs of {name}": value for name, value in dataset.repeats.items()}
    if tasks:
        told["tasks"] = sum(corpus.ledger[name]["joins"]["train"]["tasks"] for name in languages)
    kept = out / f"tasks-{arm}-{seed}.safetensors"
    learner, spent = train(open_base(out), dataset, seed, rows_a_step=ROWS_A_STEP, kept=kept)
    whole = {name: read_texts(out, f"whole-{name}")[:DOCUMENTS] for name in languages}
    long = {
        f"one long {name}": [tokenizer.encode(text) for text in read_texts(out, f"long-{name}")[:DOCUMENTS]]
        for name in ("law", "code")
    }
    return {**told, **spent, **ask(learner, whole, FAMILIES, ASKED, tokenizer), **measure_gain(learner, long)}


STUDIES: Mapping[str, tuple[Callable[[Path, str, int], Cell], tuple[str, ...]]] = {
    "joins": (run_joins, tuple(JOINS)),
    "tasks": (run_tasks, tuple(TASKS)),
}


def list_cells() -> Iterator[tuple[str, str, int]]:
    """Seed by seed, so that what is there can be compared at any time; first two arms of each study."""
    for arms in (slice(2), slice(2, None)):
        for study in STUDIES:
            for seed in SEEDS:
                for arm in STUDIES[study][1][arms]:
                    yield study, arm, seed


def read_cells(out: Path) -> dict[str, Cell]:
    """All arms that are finished."""
    return {name: json.loads(path.read_text()) for path in sorted(out.glob("*.cell.json")) if (name := name_of(path))}


def name_of(path: Path) -> str:
    """``joins/related/1`` of ``joins-related-1.cell.json``."""
    return path.name.removesuffix(".cell.json").replace("-", "/")


def work(data: Path, out: Path, *, budget: float) -> None:
    """Run the arms that are missing, as many as fit into ``budget`` minutes; others may do so beside it."""
    begin, longest = time.monotonic(), 0.0
    out.mkdir(parents=True, exist_ok=True)
    with hold(out / "texts", waits=True):
        write_texts(data, out)
    for study, arm, seed in list_cells():
        path = out / f"{study}-{arm}-{seed}.cell.json"
        try:
            with hold(path.with_suffix(".run")):
                if path.exists():
                    continue
                if time.monotonic() - begin + 1.2 * longest > 60 * budget:
                    print(f"the budget ends before {name_of(path)}; the same command goes on")
                    return
                started, clock = time.process_time(), time.monotonic()
                cell = STUDIES[study][0](out, arm, seed)
                cell["cpu_seconds"] = time.process_time() - started
                longest = max(longest, time.monotonic() - clock)
                write_whole(path, json.dumps(cell, indent=1) + "\n")
                print(name_of(path), json.dumps(cell), flush=True)
        except FolderInUseError:
            continue  # another process has it
    print("nothing is left")


def tabulate(cells: Mapping[str, Cell]) -> str:
    """A table for each study: the first arm's means, and the differences of the others to it."""
    return "\n".join("\n".join(_tabulate(study, cells)) for study in STUDIES)


def _tabulate(study: str, cells: Mapping[str, Cell]) -> Iterator[str]:
    first, *others = STUDIES[study][1]
    seeds = [seed for seed in SEEDS if all(f"{study}/{arm}/{seed}" in cells for arm in (first, others[0]))]
    if not seeds:
        return
    others = [arm for arm in others if all(f"{study}/{arm}/{seed}" in cells for seed in seeds)]
    yield f"**{study}**, {len(seeds)} seed{'s' * (len(seeds) > 1)}"
    yield ""
    yield f"| measure | {first} | " + " | ".join(f"{arm}: difference" for arm in others) + " |"
    yield "|---" + "|---:" * (1 + len(others)) + "|"
    for key in cells[f"{study}/{first}/{seeds[0]}"]:
        if ":" in key and "questions" not in key:
            columns = {arm: [cells[f"{study}/{arm}/{seed}"][key] for seed in seeds] for arm in (first, *others)}
            base = columns[first]
            apart = [mean([a - b for a, b in zip(columns[arm], base, strict=True)]) for arm in others]
            shown = " | ".join(
                f"{value:+.3f}" + (f" ± {(high - low) / 2:.3f}" if high < np.inf else "") for value, low, high in apart
            )
            yield f"| {key} | {mean(base)[0]:.3f} | {shown} |"
    yield ""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--budget", type=float, default=14, help="minutes")
    parser.add_argument("--table", type=Path, help="a page to write the tables into, between its marks")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.table is None:
        if missing := missing_files(given.data):
            print(f"skipped: {given.data} has no {', '.join(missing)}")
            return
        work(given.data, given.out, budget=given.budget)
        return
    cells = read_cells(given.out)
    write_whole(RESULTS, json.dumps(cells, indent=1) + "\n")
    write_tables(given.table, tabulate(cells))


if __name__ == "__main__":
    main()
