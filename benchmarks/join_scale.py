"""Time and memory of joins: Python's library by imports, a million records by their keys, related texts of events.

    python benchmarks/join_scale.py [--records 1000000] [--events 500 2000]

Each case runs in a process of its own. Records lie in groups of ten, in any order; the groups and their orders are
compared with those that were planted. Reports on an event share four names that no other event has; all other words are
as frequent as in a language. Precision: the share of neighbours in a document that are of one event. Recall: the share
of the pairs that could stand side by side. Prints a JSON line for each case.
"""

import argparse
import ast
import json
import resource
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ropewalk.core.record import Shard
from ropewalk.corpus.join.places import read_places
from ropewalk.corpus.join.related import chain_related
from ropewalk.corpus.join.write_pieces import chain_groups, make_pieces
from ropewalk.corpus.join_rules import RelatedRules
from ropewalk.corpus.read.imports import order_by_imports
from ropewalk.corpus.read.join_parts import PART
from ropewalk.corpus.tokens.store import StoredDocuments
from ropewalk.corpus.tokens.tokenizer import load_tokenizer
from ropewalk.shape.find import TINY_BASE

OF_EACH_GROUP, OF_EACH_EVENT = 10, 8
WORDS, NAMES, WORDS_OF_A_TEXT = 30_000, 4, 240


def join_records(records: int) -> dict[str, Any]:
    """The groups of ``records`` records, and the table of the joined documents."""
    order = np.random.default_rng(0).permutation(records)
    with tempfile.TemporaryDirectory() as scratch:
        with (Path(scratch) / "documents.jsonl").open("w") as file:
            for number in order.tolist():
                group, at = divmod(number, OF_EACH_GROUP)
                place = {"key": [f"book {group}"], "order": [f"第{at + 1}章"], "header": f"{at + 1}\n"}
                file.write(json.dumps({"id": f"r{number}", PART: place}, ensure_ascii=False) + "\n")
        idle, begin = _peak_mb(), time.process_time()
        places = read_places(Path(scratch), order.astype(np.uint64))
    parts = chain_groups(places.order, places.group[places.order])
    table = make_pieces(
        parts,
        tokens=np.full(records, 500),
        headers=places.headers,
        separator="\n\n",
        keeps_ends=False,
        trains_added=True,
        tokenizer=load_tokenizer(TINY_BASE),
    )
    seconds = time.process_time() - begin
    planted = order[parts.documents].reshape(-1, OF_EACH_GROUP)
    exact = (planted == planted[:, :1] + np.arange(OF_EACH_GROUP)).all() and (planted[:, 0] % OF_EACH_GROUP == 0).all()
    return {
        "case": "records by keys",
        "records": records,
        "exact": bool(exact) and len({*planted[:, 0].tolist()}) == records // OF_EACH_GROUP,
        "pieces": len(table.rows),
        "seconds": seconds,
        "idle_mb": idle,
        "peak_mb": _peak_mb(),
    }


def join_related(events: int) -> dict[str, Any]:
    """Chains of reports on invented events."""
    rng = np.random.default_rng(1)
    often = 1 / np.arange(1, WORDS + 1)
    documents = events * OF_EACH_EVENT
    words = rng.choice(WORDS, (documents, WORDS_OF_A_TEXT), p=often / often.sum())
    event = rng.permutation(np.repeat(np.arange(events), OF_EACH_EVENT))
    for _ in range(9):
        names = WORDS + NAMES * event + rng.integers(NAMES, size=documents)
        words[np.arange(documents), rng.integers(WORDS_OF_A_TEXT, size=documents)] = names
    flat = words.astype(np.uint32).reshape(-1)
    ends = np.arange(1, documents + 1, dtype=np.uint64) * np.uint64(WORDS_OF_A_TEXT)
    shard = Shard(tokens=flat, ends=ends, mask=np.broadcast_to(np.uint8(1), flat.shape), manifest={})
    stored = StoredDocuments((shard,), np.arange(documents))
    signatures = rng.integers(0, 1 << 32, (documents, 128), dtype=np.uint32)
    idle, begin = _peak_mb(), time.process_time()
    rules = RelatedRules(target_tokens=WORDS_OF_A_TEXT * OF_EACH_EVENT * 4)
    parts = chain_related(stored, stored.lengths, signatures, rules)
    seconds = time.process_time() - begin
    same = [
        event[a] == event[b]
        for (a, b), opens in zip(pairwise(parts.documents), parts.opens[1:], strict=True)
        if not opens
    ]
    megabytes = documents * WORDS_OF_A_TEXT * 5 / 1e6  # of English: a word is about five letters
    return {
        "case": "related texts",
        "events": events,
        "documents": documents,
        "precision": float(np.mean(same)),
        "recall": float(np.sum(same)) / (events * (OF_EACH_EVENT - 1)),
        "seconds": seconds,
        "mb_per_core_second": megabytes / seconds,
        "idle_mb": idle,
        "peak_mb": _peak_mb(),
    }


def order_library(_: int) -> dict[str, Any]:
    """Python's library in the order of its imports; its imports are found again by Python's own parser."""
    root = Path(sysconfig.get_paths()["stdlib"])
    paths = [path for path in sorted(root.rglob("*.py")) if not {"site-packages", "test", "tests"} & {*path.parts}]
    files = [(path.relative_to(root).as_posix(), path.read_text(encoding="utf-8", errors="ignore")) for path in paths]
    begin = time.process_time()
    placed = order_by_imports(files)
    seconds = time.process_time() - begin
    number_of = {name.removesuffix(".py").removesuffix("/__init__"): number for number, (name, _) in enumerate(files)}
    edges = [
        (number, number_of[wanted])
        for number, (name, text) in enumerate(files)
        for wanted in find_imports(name, text)
        if number_of.get(wanted, number) != number
    ]
    apart = [(a, b) for a, b in edges if not (placed[a].in_circle and placed[b].in_circle)]
    return {
        "case": "Python's library by imports",
        "files": len(files),
        "in_circles": sum(each.in_circle for each in placed),
        "imports": len(edges),
        "imports_outside_of_circles": len(apart),
        "precede": sum(placed[b].rank < placed[a].rank for a, b in apart) / len(apart),
        "seconds": seconds,
    }


def find_imports(name: str, text: str) -> Iterator[str]:
    """What a file imports, as paths without suffix that may be files of the library."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return  # templates and texts of another Python
    home = name.split("/")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.replace(".", "/") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = home[: len(home) + 1 - node.level] if node.level else []
            origin = [*above, *(node.module or "").split(".")] if node.module else above
            yield "/".join(origin)
            yield from ("/".join([*origin, alias.name]) for alias in node.names)


def _peak_mb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


CASES = {"library": order_library, "records": join_records, "events": join_related}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--records", type=int, nargs="*", default=[1_000_000])
    parser.add_argument("--events", type=int, nargs="*", default=[500, 2000])
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        kind, size = given.one
        print(json.dumps(CASES[kind](int(size))), flush=True)
        return
    for kind, sizes in (("library", [0]), ("records", given.records), ("events", given.events)):
        for size in sizes:
            subprocess.run([sys.executable, __file__, "--one", kind, str(size)], check=True)


if __name__ == "__main__":
    main()
