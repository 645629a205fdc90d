"""A store of 20 million documents and more than 20 billion tokens: what a stage over it costs to plan and to read.

    python benchmarks/store_20b.py [--documents 20000000] [--contexts 4Ki 32Ki 128Ki 1Mi] [--tokens 20000000000]

The ids of the tokens are sparse files, which read as zeros and take no disk; the index of documents is true: lengths
from 1Ki to 1Mi tokens by a power law, three sources of 7 : 2 : 1 documents. Each context runs in a process of its own:
open the corpus, plan a stage of ``--tokens`` tokens in 7 : 2 : 1 (mix, pack order), then read batches at random cursors
and at both ends. Prints a JSON line for each, with the realised shares at every tenth of the stage.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np

from ropewalk.core.artifact import new_folder, write_manifest
from ropewalk.core.digest import digest_value
from ropewalk.core.quantity import parse_count
from ropewalk.core.record import Role
from ropewalk.corpus.mix.dataset import open_dataset
from ropewalk.corpus.tokens.corpus_folder import KIND, Facts, content_digest, open_corpus
from ropewalk.corpus.tokens.store import SHARD_TOKENS, token_dtype
from ropewalk.plan.totals import estimate_preparation

VOCABULARY = 1 << 17
SHORTEST, LONGEST, POWER = 1 << 10, 1 << 20, 1.7
SOURCES: dict[str, tuple[Role, int]] = {"web": ("general", 7), "law": ("domain", 2), "chat": ("instruction", 1)}
CURSORS = 40
MOST_CPU_SECONDS, MOST_GIBIBYTES, MOST_CURSOR_SECONDS, MOST_POINTS_OFF = 600, 3.0, 2.0, 0.1


def draw_lengths(documents: int, rng: np.random.Generator) -> np.ndarray:
    """Lengths by a power law between the shortest and the longest."""
    share = 1 - (SHORTEST / LONGEST) ** POWER
    drawn = SHORTEST * (1 - share * rng.random(documents)) ** (-1 / POWER)
    return np.minimum(drawn.astype(np.int64), LONGEST)


def write_store(folder: Path, lengths: np.ndarray) -> None:
    """Shards as the tokeniser divides them. Their ids have a size and no content."""
    folder.mkdir(parents=True)
    ends, number, first = np.cumsum(lengths), 0, 0
    while first < len(lengths):
        begin = int(ends[first - 1]) if first else 0
        last = min(len(lengths), int(np.searchsorted(ends, begin + SHARD_TOKENS)) + 1)
        stem = folder / f"shard-{number:05d}"
        (ends[first:last] - begin).astype("<u8").tofile(stem.with_suffix(".idx"))
        with stem.with_suffix(".tok").open("wb") as file:
            file.truncate(int(ends[last - 1] - begin) * token_dtype(VOCABULARY).itemsize)
        number, first = number + 1, last
    np.save(folder / "language.npy", np.zeros(len(lengths), dtype=np.int64))
    # Sparse gigabytes are not hashed: their manifest names them by their sizes.
    files = {path.name: {"bytes": path.stat().st_size, "digest": ""} for path in sorted(folder.iterdir())}
    write_manifest(folder, kind="tokens", inputs={}, facts={"languages": ["en"]}, files=files)


def make(folder: Path, documents: int) -> int:
    """The stores and the corpus that points to them; the number of their tokens."""
    rng, entries, total = np.random.default_rng(0), {}, 0
    with new_folder(folder / "corpus", kind=KIND, inputs={}) as work:
        for name, (role, share) in SOURCES.items():
            lengths = draw_lengths(documents * share // 10, rng)
            total += int(lengths.sum())
            write_store(folder / "store" / name, lengths)
            (work / name / "held_out").mkdir(parents=True)
            np.save(work / name / "train.npy", np.arange(len(lengths), dtype=np.int64))
            facts = Facts(role, len(lengths), int(lengths.sum()), 0, 0, {"en": len(lengths)}, None)
            entries[name] = {
                "store": f"../store/{name}",
                "store_digest": content_digest(folder / "store" / name),
                "facts": asdict(facts),
            }
        content = {"digest": digest_value([documents, POWER]), "vocabulary": VOCABULARY, "eos_id": 0}
        (work / "corpus.json").write_text(json.dumps({**content, "long_documents": "split", "sources": entries}))
        (work / "ledger.json").write_text("{}")
    return total


def peak_gibibytes() -> float:
    """The most memory that this program held. (``ru_maxrss`` would include the program that started it.)"""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024**2


def measure(folder: Path, context_tokens: int, tokens: int) -> dict[str, object]:
    """Open, mix and pack a stage; then read batches of one row at random cursors."""
    idle, begun = peak_gibibytes(), time.process_time()
    corpus = open_corpus(folder / "corpus")
    opened = time.process_time()
    mix = {role: float(share) for role, share in SOURCES.values()}
    rows = tokens // context_tokens
    dataset = open_dataset(
        corpus, mix=mix, context_tokens=context_tokens, sequences=rows, seed=0, stage=0, max_repeats=4
    )
    planned = time.process_time()
    tenths = []
    for tenth in range(1, 11):
        given = dataset.realised(dataset.sequences * tenth // 10)
        tenths.append({name: 100 * count / sum(given.values()) for name, count in given.items()})
    wanted = {name: 10.0 * share for name, (_, share) in SOURCES.items()}
    off = max(abs(shares[name] - wanted[name]) for shares in tenths for name in wanted)
    slowest, at = 0.0, np.random.default_rng(1).integers(0, rows, CURSORS).tolist()
    for cursor in [0, rows - 1, *at]:
        start = time.perf_counter()
        batch = dataset.batch(cursor, 1)
        slowest = max(slowest, time.perf_counter() - start)
        assert (batch.document[0] >= 0).any()
    seconds, peak = planned - begun, peak_gibibytes()
    return {
        "context_tokens": context_tokens,
        "rows": rows,
        "open_cpu_seconds": round(opened - begun, 2),
        "mix_and_pack_cpu_seconds": round(planned - opened, 2),
        "idle_gibibytes": round(idle, 2),
        "peak_gibibytes": round(peak, 2),
        "padding": round(dataset.padding_tokens / (rows * context_tokens), 6),
        "slowest_cursor_seconds": round(slowest, 3),
        "most_sequences_off": round(dataset.most_sequences_off, 3),
        "points_off_at_tenths": round(off, 5),
        "shares_at_tenths": [{name: round(share, 4) for name, share in shares.items()} for shares in tenths],
        "holds": seconds <= MOST_CPU_SECONDS
        and peak <= MOST_GIBIBYTES
        and slowest <= MOST_CURSOR_SECONDS
        and off <= MOST_POINTS_OFF,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=20_000_000)
    parser.add_argument("--contexts", nargs="+", default=["4Ki", "32Ki", "128Ki", "1Mi"])
    parser.add_argument("--tokens", type=int, default=20_000_000_000)
    parser.add_argument("--measure", type=Path, help="used by the program itself")
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measure(given.measure, parse_count(given.contexts[0]), given.tokens)))
        return
    with tempfile.TemporaryDirectory() as folder:
        total = make(Path(folder), given.documents)
        disk = sum(path.stat().st_blocks * 512 for path in Path(folder).rglob("*") if path.is_file())
        hours = round(estimate_preparation(given.tokens) / 3600, 1)
        facts = {"documents": given.documents, "tokens": total, "megabytes_on_disk": round(disk / 1e6)}
        print(json.dumps({**facts, "stage_tokens": given.tokens, "preparation_core_hours": hours}), flush=True)
        for context in given.contexts:
            command = [sys.executable, __file__, "--measure", folder, "--contexts", context, "--tokens"]
            done = subprocess.run([*command, str(given.tokens)], check=True, stdout=subprocess.PIPE, text=True)
            print(done.stdout.strip(), flush=True)


if __name__ == "__main__":
    main()
