"""How well `corpus score --sample` orders long documents, against the whole reading of them, and what it costs.

    python benchmarks/score_books.py --data FOLDER --kept ROWS.json [--model FOLDER] [--tokens 20000] [--truncated 64]

Documents (300): the parts of a novel; chapters of novels in a row; laws of one office, poems of one author and the
programs of one folder of installed packages, each joined until it has ``--tokens`` tokens. No text stands in two of
them, and no text is cut but the novels, at their chapters. The whole reading of every document (in sections of the
model's context) takes twenty minutes of a core and more, so its lines are kept in a file with which a later run goes
on; the documents are in an order that is drawn, so the first of them are a sample. Prints a JSON line for it and one
for each share: Spearman's correlation with the whole reading over all documents and within each source, with 95 %
intervals by resampling documents, and the number of windows.
"""

import argparse
import importlib.util
import json
import re
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import ropewalk
from compressed_lines import read_records
from joins_text import read_laws
from ropewalk.corpus.tokens.tokenizer import load_tokenizer
from ropewalk.evaluate.gain_sections import count_whole
from ropewalk.evaluate.length_gain import LongText
from ropewalk.model.model_with_loss import ModelWithLoss
from ropewalk.model.open_model import open_model
from ropewalk.shape.read import read_shape
from score_sample import clocked, spearman

WANTED = {"books_en": 40, "books_zh": 60, "law_zh": 60, "poems_zh": 40, "code": 100}
PACKAGES = ("torch", "transformers", "numpy", "sympy", "matplotlib", "networkx", "datasets")
"""Of these, those that are installed."""
MUST_REACH, RESAMPLED, BATCH = 0.9, 1000, 5
_CHAPTER = re.compile(r"(?m)^(?=\s*(?:CHAPTER [IVXLC]+\s*$|第[0-9零一二三四五六七八九十百]+[章回]))")


def read_parts(data: Path, name: str) -> Iterator[tuple[str, str]]:
    """(group, text) of a source, a group's texts one behind another. Only texts of one group are joined."""
    if name.startswith("books"):
        for book in read_records(data / f"{name}.jsonl.zst"):
            yield from ((book["id"], chapter) for chapter in _CHAPTER.split(book["text"]) if chapter.strip())
    elif name == "law_zh":
        laws = sorted(read_laws(data), key=lambda each: each.name)
        yield from ((each.name.rpartition("/")[0], each.text) for each in laws)
    elif name == "poems_zh":
        of_author = defaultdict(list)
        for poem in read_records(data / "poems_zh.jsonl.zst"):
            of_author[poem["text"].split("\n")[1:2][0] if "\n" in poem["text"] else ""].append(poem["text"])
        yield from ((author, text) for author in sorted(of_author) for text in of_author[author])
    else:
        for package in PACKAGES:
            if (found := importlib.util.find_spec(package)) is None or found.origin is None:
                continue
            root = Path(found.origin).parent
            for path in sorted(root.rglob("*.py")):
                try:
                    yield str(path.parent.relative_to(root.parent)), path.read_text(encoding="utf-8")
                except UnicodeDecodeError:
                    continue


def collect(data: Path, model: Path, tokens: int, wanted: dict[str, int]) -> list[LongText]:
    """Documents of ``tokens`` tokens or more, as many of each source as wanted, of groups in an order that is drawn."""
    tokenizer, made = load_tokenizer(model), []
    for name, count in wanted.items():
        groups: dict[str, list[str]] = defaultdict(list)
        for group, text in read_parts(data, name):
            groups[group].append(text)
        kept: list[LongText] = []
        for group in np.random.default_rng(7).permutation(sorted(groups)).tolist():
            held: list[np.ndarray] = []
            for text in dict.fromkeys(groups[group]):  # no text twice
                held.append(tokenizer.encode(text + "\n\n"))
                if sum(map(len, held)) >= tokens and len(kept) < count:
                    kept.append(LongText(name, f"{group}#{len(kept)}", np.concatenate(held)))
                    held = []
                elif len(kept) == count:
                    break
        made += kept
    return [made[number] for number in np.random.default_rng(9).permutation(len(made)).tolist()]


def read_whole(
    learner: ModelWithLoss, texts: list[LongText], kept: Path, stop_after: float, **lengths: int
) -> tuple[float, list[dict[str, Any]]]:
    """Processor seconds and lines of the whole reading of the first documents, in a file that later runs go on with."""
    done: list[tuple[float, list[dict[str, Any]]]] = []
    if kept.exists():
        done = [json.loads(line) for line in kept.read_text().splitlines()]
    begun = time.time()
    while (read := sum(len(rows) for _, rows in done)) < len(texts) and time.time() - begun < stop_after:
        done.append(clocked(learner, texts[read : read + BATCH], share=1.0, **lengths))
        with kept.open("a", encoding="utf-8") as file:
            file.write(json.dumps(done[-1]) + "\n")
    return sum(seconds for seconds, _ in done), [row for _, rows in done for row in rows]


def compare(texts: list[LongText], found: np.ndarray, whole: np.ndarray) -> dict[str, Any]:
    """Spearman's correlation over all documents and within each source, with intervals."""
    rng, groups = np.random.default_rng(0), np.array([text.source for text in texts])
    told = {}
    for name in ("all", *dict.fromkeys(groups.tolist())):
        own = np.arange(len(texts)) if name == "all" else np.flatnonzero(groups == name)
        again = [rng.choice(own, len(own)) for _ in range(RESAMPLED)]
        low, high = np.percentile([spearman(found[at], whole[at]) for at in again], [2.5, 97.5])
        told[name] = [round(float(each), 3) for each in (spearman(found[own], whole[own]), low, high)]
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--kept", type=Path, required=True, help="lines of the whole reading so far")
    parser.add_argument("--model", type=Path, default=Path(ropewalk.__file__).parent / "model" / "tiny_base")
    parser.add_argument("--tokens", type=int, default=20_000)
    parser.add_argument("--of-each", type=float, default=1.0, help="share of the 300 documents")
    parser.add_argument("--truncated", type=int, default=64)
    parser.add_argument("--stop-after", type=float, default=1e9, help="seconds of reading whole, by the clock")
    parser.add_argument("--share", type=float, nargs="+", default=[0.1, 0.2])
    given = parser.parse_args()
    lengths = {"truncated_tokens": given.truncated, "context_tokens": read_shape(given.model).context_tokens}
    wanted = {name: round(count * given.of_each) for name, count in WANTED.items()}
    texts = collect(given.data, given.model, given.tokens, wanted)
    learner = open_model(ModelWithLoss, given.model, dtype="float32")
    seconds, rows = read_whole(learner, texts, given.kept, given.stop_after, **lengths)
    texts = texts[: len(rows)]
    assert [row["id"] for row in rows] == [text.id for text in texts]
    whole = np.array([row["gain"] for row in rows])
    cost = np.array([count_whole(len(text.tokens), **lengths) for text in texts])
    sizes = np.array([len(text.tokens) for text in texts])
    sources = [text.source for text in texts]
    print(json.dumps({"model": given.model.name, "documents": len(texts), **lengths,
                      "of_each_source": {name: sources.count(name) for name in wanted},
                      "tokens_of_a_document": [int(each) for each in np.percentile(sizes, [0, 50, 100])],
                      "tokens_of_the_whole": int(cost.sum()), "cpu_seconds": round(seconds, 1),
                      "gain_mean": round(float(whole.mean()), 4),
                      "gain_deviation": round(float(whole.std()), 4)}), flush=True)  # fmt: skip
    for share in given.share:
        sampled_seconds, rows = clocked(learner, texts, share=share, **lengths)
        found, windows = (np.array([row[key] for row in rows]) for key in ("gain", "of_windows"))
        inside = [row["low"] <= gain <= row["high"] for row, gain in zip(rows, whole.tolist(), strict=True)]
        print(json.dumps({
            "share": share,
            "tokens_share": round(sum(row["tokens_read"] for row in rows) / int(cost.sum()), 3),
            "cpu_share": round(sampled_seconds / seconds, 3),
            "mean_windows_of_a_document": round(float(np.mean([len(row["windows"]) for row in rows])), 1),
            "spearman": compare(texts, found, whole),
            "spearman_of_windows_alone": compare(texts, windows, whole),
            "bias": round(float((found - whole).mean()), 4),
            "in_interval": round(float(np.mean(inside)), 3),
            "must_reach": MUST_REACH,
        }), flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
