"""How well `corpus score --sample` orders real documents, against the whole reading of them, and what it costs.

    python benchmarks/score_sample.py --data FOLDER [--model FOLDER] [--documents 300] [--truncated 64]

Documents: the texts of each .jsonl.zst in FOLDER (books in pieces), as many of each file, cut to the model's context.
Both readings score the same documents in one process; processor seconds are of the readings alone. Prints a JSON line
for the whole reading and one for each share, with what counted in a window and the number of documents: Spearman's
correlation with the whole reading (and its 95 % interval by resampling documents), the same for the windows without the
regression, the share of the documents whose whole gain lies in the interval of the sample, agreement on the upper half,
and the cost.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

import ropewalk
from ropewalk.core.record import Document
from ropewalk.corpus.read.source import read_source
from ropewalk.corpus.spec import Source
from ropewalk.corpus.tokens.tokenizer import load_tokenizer
from ropewalk.evaluate.gain_sample import SAMPLED
from ropewalk.evaluate.gain_sections import WINDOWS, count_whole
from ropewalk.evaluate.length_gain import LongText, read_gains
from ropewalk.model.model_with_loss import ModelWithLoss
from ropewalk.model.open_model import open_model
from ropewalk.shape.read import read_shape

PIECE_CHARACTERS = 1 << 14
RESAMPLED = 1000
PARTS = {1: "all", 2: "last half", 4: "last quarter"}
UNITS = {"gain": "nats per token", "cpu_seconds": "processor seconds", "tokens": "tokens read"}


def collect(data: Path, model: Path, documents: int, context_tokens: int, least: int) -> list[LongText]:
    """As many documents of each file, drawn by a seed, each cut to ``context_tokens``."""
    tokenizer, texts = load_tokenizer(model), []
    paths = sorted(data.glob("*.jsonl.zst"))
    for path in paths:
        source, found = Source(name=path.name.split(".")[0], path=str(path), role="general"), []
        for item in read_source(source, seed=0):
            if isinstance(item, Document):
                pieces = range(0, len(item.text), PIECE_CHARACTERS)
                found += [(f"{item.id}@{at}", item.text[at : at + PIECE_CHARACTERS]) for at in pieces]
        kept = 0
        for number in np.random.default_rng(0).permutation(len(found)).tolist():
            id, text = found[number]
            if kept >= documents // len(paths):
                break
            tokens = tokenizer.encode(text)[:context_tokens].astype(np.int64)
            if len(tokens) >= least:
                texts.append(LongText(source.name, id, tokens))
                kept += 1
    return texts


def rank(values: np.ndarray) -> np.ndarray:
    return np.argsort(np.argsort(values, kind="stable"), kind="stable").astype(np.float64)


def spearman(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.corrcoef(rank(first), rank(second))[0, 1])


def clocked(learner: ModelWithLoss, texts: list[LongText], **keys: Any) -> tuple[float, list[dict[str, Any]]]:
    begun = time.process_time()
    rows = list(read_gains(learner, texts, **keys))
    return time.process_time() - begun, rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", type=Path, default=Path(ropewalk.__file__).parent / "model" / "tiny_base")
    parser.add_argument("--documents", type=int, default=300)
    parser.add_argument("--context", type=int, help="tokens of a document that are read; by default the model's")
    parser.add_argument("--truncated", type=int, default=64)
    parser.add_argument("--share", type=float, nargs="+", default=[0.1, 0.2, 0.4])
    given = parser.parse_args()
    context = given.context or read_shape(given.model).context_tokens
    texts = collect(given.data, given.model, given.documents, context, 2 * given.truncated)
    learner = open_model(ModelWithLoss, given.model, dtype="float32")
    lengths = {"truncated_tokens": given.truncated, "context_tokens": context}
    seconds, rows = clocked(learner, texts, share=1.0, **lengths)
    whole = np.array([row["gain"] for row in rows])
    tokens = sum(count_whole(len(text.tokens), **lengths) for text in texts)
    facts = {"model": given.model.name, "documents": len(texts), "context_tokens": context}
    print(json.dumps({**facts, "truncated_tokens": given.truncated, "tokens_of_the_whole": tokens,
                      "counted": f"{PARTS[WINDOWS]} of a window", "units": UNITS, "n": len(texts),
                      "cpu_seconds": round(seconds, 1), "gain_mean": round(float(whole.mean()), 4),
                      "gain_deviation": round(float(whole.std()), 4)}), flush=True)  # fmt: skip
    rng, groups = np.random.default_rng(0), [text.source for text in texts]
    for share in given.share:
        sampled_seconds, rows = clocked(learner, texts, share=share, **lengths)
        found = np.array([row["gain"] for row in rows])
        windows = np.array([row["of_windows"] for row in rows])
        again = [rng.integers(0, len(texts), len(texts)) for _ in range(RESAMPLED)]
        low, high = np.percentile([spearman(found[at], whole[at]) for at in again], [2.5, 97.5])
        inside = [row["low"] <= gain <= row["high"] for row, gain in zip(rows, whole.tolist(), strict=True)]
        same = (found >= np.median(found)) == (whole >= np.median(whole))
        own = {
            name: round(spearman(found[at], whole[at]), 3)
            for name in dict.fromkeys(groups)
            for at in [np.array([each == name for each in groups])]
        }
        print(json.dumps({
            "share": share,
            "counted": f"{PARTS[SAMPLED]} of a window",
            "n": len(texts),
            "resampled": RESAMPLED,
            "tokens_share": round(sum(row["tokens_read"] for row in rows) / tokens, 3),
            "cpu_share": round(sampled_seconds / seconds, 3),
            "spearman": round(spearman(found, whole), 3),
            "spearman_of_windows_alone": round(spearman(windows, whole), 3),
            "spearman_interval": [round(low, 3), round(high, 3)],
            "spearman_within_source": own,
            "same_half": round(float(same.mean()), 3),
            "bias": round(float((found - whole).mean()), 4),
            "in_interval": round(float(np.mean(inside)), 3),
        }), flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
