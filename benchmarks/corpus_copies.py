"""How many near-copies are found, and how many found ones are none, against exact comparison of all pairs.

    python benchmarks/corpus_copies.py --data LAWS.jsonl.zst [--quick]

Text: the laws of a file (they have revisions), and copies of passages planted at Jaccard similarities of 0.5, 0.7, 0.8
and 0.9. Truth: the similarity of the sets of 5-character runs, by counting. Prints JSON lines.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from ropewalk.core.record import Document
from ropewalk.corpus.dedup.minhash import group_similar, sign
from ropewalk.corpus.read.source import read_source
from ropewalk.corpus.spec import Source
from ropewalk.corpus.text.shingle import shingles, word_hashes

LEVELS = (0.5, 0.7, 0.8, 0.9)
PASSAGE_CHARACTERS = 3000
WIDTH = 5


def plant(texts: list[str], level: float, copies: int, rng: np.random.Generator) -> list[str]:
    """Passages and edited copies of them: each changed character breaks five runs of both."""
    long = [text for text in texts if len(text) > 2 * PASSAGE_CHARACTERS]
    planted = []
    for _ in range(copies):
        text = long[int(rng.integers(len(long)))]
        at = int(rng.integers(len(text) - PASSAGE_CHARACTERS))
        passage = list(text[at : at + PASSAGE_CHARACTERS])
        edited = list(passage)
        runs = len(np.unique(shingles(word_hashes("".join(passage)), WIDTH)))
        broken = round(runs * (1 - level) / (1 + level) / WIDTH)
        letters = [place for place, letter in enumerate(passage) if letter.isalpha()]
        for place in (np.arange(broken) * len(letters) // max(1, broken)).tolist():
            edited[letters[place]] = chr(0x4E00 + int(rng.integers(20000)))
        planted += ["".join(passage), "".join(edited)]
    return planted


def similarities(sets: list[np.ndarray]) -> np.ndarray:
    """Exact Jaccard similarity of all pairs, by way of which documents have each run."""
    owner = np.repeat(np.arange(len(sets)), [len(each) for each in sets])
    values = np.concatenate(sets)
    order = np.argsort(values, kind="stable")
    values, owner = values[order], owner[order]
    borders = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1], [True]]))
    shared = np.zeros((len(sets), len(sets)), dtype=np.int32)
    for first, last in zip(borders[:-1].tolist(), borders[1:].tolist(), strict=True):
        if last - first > 1:
            members = owner[first:last]
            shared[np.ix_(members, members)] += 1
    sizes = np.array([len(each) for each in sets])
    return shared / np.maximum(1, sizes[:, None] + sizes[None] - shared)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--quick", action="store_true", help="150 laws and 10 copies a level")
    given = parser.parse_args()
    source = Source(name="law", path=str(given.data), role="domain", language="zh")
    laws = [item.text for item in read_source(source, seed=0) if isinstance(item, Document)]
    laws = laws[:150] if given.quick else laws
    rng = np.random.default_rng(0)
    copies = 10 if given.quick else 100
    planted = {level: plant(laws, level, copies, rng) for level in LEVELS}
    texts = laws + [text for level in LEVELS for text in planted[level]]
    exact = similarities([np.unique(shingles(word_hashes(text), WIDTH)) for text in texts])
    signatures = np.array([sign(text) for text in texts])
    upper = np.triu(np.ones_like(exact, dtype=bool), 1)
    estimated = np.array([np.mean(signatures[number] == signatures, axis=1) for number in range(len(texts))])
    near = upper & (exact > 0.3)
    at = len(laws) + 2 * np.arange(copies * len(LEVELS))
    spread = exact[at, at + 1].reshape(len(LEVELS), copies).mean(axis=1)
    print(
        json.dumps({"case": "planted similarity", **dict(zip(map(str, LEVELS), spread.round(3).tolist(), strict=True))})
    )
    error = float(np.std((estimated - exact)[near]))
    print(json.dumps({"case": "estimate of similarity", "pairs": int(near.sum()), "standard_error": round(error, 4)}))
    for level in LEVELS:
        groups = group_similar(signatures, threshold=level)
        together = upper & (groups[:, None] == groups[None])
        true = upper & (exact >= level)
        row = {"case": f"pairs from {level} up", "true": int(true.sum()), "together": int(together.sum())}
        row["recall"] = round(float((true & together).sum() / max(1, true.sum())), 4)
        row["precision"] = round(float((true & together).sum() / max(1, together.sum())), 4)
        clear = upper & (exact >= level + 0.05)
        row["recall_from_0.05_above"] = round(float((clear & together).sum() / max(1, clear.sum())), 4)
        row["precision_to_0.05_below"] = round(
            float((together & (exact >= level - 0.05)).sum() / max(1, together.sum())), 4
        )
        row["least_similar_together"] = round(float(exact[together].min(initial=1.0)), 3)
        for number, planted_level in enumerate(LEVELS):
            at = len(laws) + 2 * copies * number + 2 * np.arange(copies)
            row[f"planted_{planted_level}"] = round(float(together[at, at + 1].mean()), 3)
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
