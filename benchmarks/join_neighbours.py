"""Which texts are related? Rare terms, MinHash signatures and BM25 on real text whose laws and folders are known.

    python benchmarks/join_neighbours.py DATA OUT      # DATA, OUT as for study_joins.py

For each text that has another one of its group (a law with its revisions, a folder of programs), each way names the
nearest other text. Right is one of the same group. MinHash compares the signatures that are there for near copies.
"""

import argparse
import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from joins_text import missing_files
from joins_train import make_corpus, read_tokenizer
from ropewalk.core.artifact import write_whole
from ropewalk.corpus.join.rare_terms import list_related
from ropewalk.corpus.join_rules import RelatedRules
from ropewalk.corpus.tokens.store import StoredDocuments
from study_joins import write_texts

Nearest = Callable[[], list[int | None]]
"""For each document the nearest other one, if any is near."""


def by_terms(documents: StoredDocuments) -> list[int | None]:
    """As ``join.related`` does it."""
    return [near[0] if near else None for near in list_related(documents, RelatedRules(target_tokens=2048))]


def by_signatures(signatures: np.ndarray) -> list[int | None]:
    """The signature that agrees in most numbers."""
    found: list[int | None] = []
    for number, own in enumerate(signatures):
        alike = (signatures == own).sum(axis=1)
        alike[number] = 0
        found.append(int(alike.argmax()) if alike.max() else None)
    return found


def by_bm25(documents: StoredDocuments, *, k: float = 1.5, b: float = 0.75) -> list[int | None]:
    """Every token of a text asks for all others (Robertson and Zaragoza 2009)."""
    counts = [Counter(ids.tolist()) for ids in documents]
    lengths = np.array([sum(own.values()) for own in counts])
    holders: dict[int, list[tuple[int, int]]] = {}
    for number, own in enumerate(counts):
        for token, times in own.items():
            holders.setdefault(token, []).append((number, times))
    total = np.zeros((len(counts), len(counts)))
    for token, held in holders.items():
        where, times = np.array(held).T
        idf = np.log(1 + (len(counts) - len(where) + 0.5) / (len(where) + 0.5))
        weight = idf * times * (k + 1) / (times + k * (1 - b + b * lengths[where] / lengths.mean()))
        asking = np.array([counts[number][token] for number in where.tolist()])
        total[np.ix_(where, where)] += asking[:, None] * weight[None]
    np.fill_diagonal(total, -np.inf)
    return [int(row.argmax()) for row in total]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    if missing := missing_files(given.data):
        print(f"skipped: {given.data} has no {', '.join(missing)}")
        return
    write_texts(given.data, given.out)
    sources = [{"name": name, "path": f"{name}-train.jsonl"} for name in ("law", "code")]
    corpus = make_corpus(given.out, "neighbours", sources, read_tokenizer())
    rows = []
    for name in corpus.sources:
        documents = corpus.train(name)
        ids = corpus.ids(name, {*documents.chosen.tolist()})
        lines = map(json.loads, (given.out / f"{name}-train.jsonl").read_text().splitlines())
        group_of = {line["id"]: line["group"] for line in lines}
        groups = [group_of[ids[number]] for number in documents.chosen.tolist()]
        signatures = np.load(corpus.store(name) / "signatures.npy")[documents.chosen]
        asked = [number for number, group in enumerate(groups) if groups.count(group) > 1]
        ways: dict[str, Nearest] = {
            "terms": lambda documents=documents: by_terms(documents),
            "minhash": lambda signatures=signatures: by_signatures(signatures),
            "bm25": lambda documents=documents: by_bm25(documents),
        }
        pairs = sum(count * (count - 1) for count in Counter(groups).values())
        rows.append({"source": name, "texts": len(groups), "asked": len(asked), "way": "chance"})
        rows[-1]["right"] = pairs / len(asked) / (len(groups) - 1)
        for way, search in ways.items():
            begin = time.process_time()
            nearest = search()
            found = [(at, near) for at in asked if (near := nearest[at]) is not None]
            right = sum(groups[near] == groups[at] for at, near in found) / len(asked)
            none = sum(nearest[at] is None for at in asked) / len(asked)
            rows.append(
                {
                    "source": name,
                    "way": way,
                    "right": right,
                    "none": none,
                    "seconds": time.process_time() - begin,
                }
            )
    for row in rows:
        print(json.dumps(row))
    write_whole(given.out / "neighbours.json", json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
