"""Memory and time of the search for copies and repeated sections against the number of documents.

    python benchmarks/corpus_scale.py [--sizes 10000 100000 1000000] [--check 100000]

Columns of short documents are made as the survey and the tokeniser write them: 5 % are equal to another one, 15 %
nearly equal, 1 % share a long section. Each size runs in a process of its own: the search for sections, then the choice
of training and held-out documents with the list of dropped ones. Up to ``--check`` documents, the groups are also made
in memory and must be the same. What 256 documents take is the fixed cost: files, processes, the first call of numpy's
parts. It is subtracted from each size's time, and told. Prints a JSON line for each size.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from ropewalk.core.artifact import new_folder
from ropewalk.core.record import Role
from ropewalk.corpus.dedup.copies_on_disk import Copies
from ropewalk.corpus.dedup.external_sort import own_scratch
from ropewalk.corpus.dedup.minhash import group_similar
from ropewalk.corpus.prepare.document_records import DocumentRecords
from ropewalk.corpus.prepare.document_scores import Picked
from ropewalk.corpus.prepare.ledger import SourceLedger
from ropewalk.corpus.prepare.repeated_sections import find_spans
from ropewalk.corpus.prepare.splits import select_documents, write_dropped
from ropewalk.corpus.prepare.tokenized import open_tokenized

SHARD_DOCUMENTS = 1 << 15
PAIRS, UNIT_CHARACTERS = 6, 50
MUST_GROW_LESS, MUST_BE_LINEAR = 1.3, 0.2
FIXED, ROUNDS = 256, 3
"""Documents whose time is the fixed cost, and how often each size is measured: the least time counts."""


def write_columns(folder: Path, number: int, documents: int, recent: np.ndarray) -> np.ndarray:
    """One shard, as a survey and as a store; some documents copy one of ``recent``. Returns some of its signatures."""
    rng = np.random.default_rng(number)
    signatures = rng.integers(0, 1 << 32, (documents, 128), dtype=np.uint32)
    digests = rng.integers(0, 1 << 63, documents, dtype=np.uint64)
    pairs = rng.integers(0, 1 << 63, (documents, PAIRS), dtype=np.uint64)
    draw, of = rng.random(documents), rng.integers(0, len(recent), documents)
    near, equal, shared = draw < 0.15, (draw >= 0.15) & (draw < 0.2), draw > 0.99
    kept = rng.random((int(near.sum()), 128)) < 0.92
    signatures[near] = np.where(kept, recent[of[near]], signatures[near])
    signatures[equal] = recent[of[equal]]
    digests[equal] = recent[of[equal], 0].astype(np.uint64) << np.uint64(20)
    pairs[shared] = np.arange(PAIRS, dtype=np.uint64)
    part = folder / f"{number:05d}"
    with new_folder(part, kind="survey", inputs={}, facts=lambda: _facts(documents)) as work:
        for name, column in (
            ("digests", digests),
            ("signatures", signatures),
            ("whole_bytes", rng.integers(100, 600, documents)),
            ("counts", np.tile([PAIRS, PAIRS + 1], (documents, 1))),
            ("bytes", rng.integers(100, 600, documents)),
            ("tokens", rng.integers(20, 150, documents)),
            ("language", np.zeros(documents, dtype=np.int64)),
        ):
            np.save(work / f"{name}.npy", column)
        pairs.astype("<u8").tofile(work / "pairs")
        np.tile(UNIT_CHARACTERS * np.arange(1, PAIRS + 2), documents).astype("<i8").tofile(work / "ends")
        with (work / "documents.jsonl").open("w") as file:
            measures = {"characters": 300, "letters": 0.9123, "han": 0.0, "line_characters": 80.5}
            for at in range(documents):
                record = {"id": f"web/{number}.jsonl:{at}", "language": "en", "cut_bytes": 0, "text": "a" * 60}
                file.write(json.dumps({**record, "measures": measures}) + "\n")
    return signatures[:256]


def _facts(documents: int) -> dict[str, object]:
    return {"ledger": SourceLedger().to_json(), "languages": ["en"], "documents": documents}


def make(folder: Path, documents: int) -> None:
    """Write all shards; the first half are general text, the second half domain text."""
    recent = np.random.default_rng(99).integers(0, 1 << 32, (256, 128), dtype=np.uint32)
    for number, first in enumerate(range(0, documents, SHARD_DOCUMENTS)):
        own = write_columns(folder, number, min(SHARD_DOCUMENTS, documents - first), recent)
        recent = np.concatenate([recent, own])[-4096:]


def peak_kilobytes() -> int:
    """The most memory that this program held. (``ru_maxrss`` would include the program that started it.)"""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])


def measure(folder: Path, check: bool) -> dict[str, object]:
    """Search and choose; processor seconds and peak memory of this process."""
    parts = sorted(path for path in folder.glob("0*"))
    roles: list[Role] = ["general" if 2 * at < len(parts) else "domain" for at in range(len(parts))]
    start, idle = time.process_time(), peak_kilobytes()
    with own_scratch(folder / "sections") as scratch:
        surveyed = [(role, [part]) for role, part in zip(roles, parts, strict=True)]
        spans = find_spans(surveyed, characters=200, threshold=0.8, scratch=scratch)
    searched, searched_peak = time.process_time(), peak_kilobytes()
    with own_scratch(folder / "splits") as scratch:
        sources = [open_tokenized(part) for part in parts]
        records = [DocumentRecords(each.folder, len(each.bytes), scratch / f"r{n}") for n, each in enumerate(sources)]
        names = [part.name for part in parts]
        choices = select_documents(sources, roles, near_duplicates=[0.8] * len(parts), held_out=0.02, scratch=scratch)
        for name in names:
            (folder / "out" / name).mkdir(parents=True)
        write_dropped(folder / "out", sources, names, choices, [Picked()] * len(parts), records)
        splits = sum(np.bincount(choice.split, minlength=5) for choice in choices)
    end, peak = time.process_time(), peak_kilobytes()
    row: dict[str, object] = {
        "documents": int(np.sum(splits)),
        "spans": len(spans),
        "splits": np.asarray(splits).tolist(),
        "sections_seconds": round(searched - start, 2),
        "splits_seconds": round(end - searched, 2),
        "idle_mb": idle // 1024,
        "sections_peak_mb": searched_peak // 1024,
        "peak_mb": peak // 1024,
    }
    if check:
        with own_scratch(folder / "check") as scratch:
            copies = Copies(list(zip(roles, parts, strict=True)), scratch)
            equal, near = copies.equal.read(0, copies.documents), copies.group(0.8).read(0, copies.documents)
        digests, signatures = (
            np.concatenate([np.load(p / f"{n}.npy") for p in parts]) for n in ("digests", "signatures")
        )
        _, first, inverse = np.unique(digests, return_index=True, return_inverse=True)
        assert np.array_equal(equal, first[inverse])
        firsts, inverse = np.unique(equal, return_inverse=True)
        assert np.array_equal(near, firsts[group_similar(signatures[firsts], threshold=0.8)][inverse])
        row["same_as_in_memory"] = True
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--check", type=int, default=100_000)
    parser.add_argument("--measure", type=Path, help="used by the program itself")
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measure(given.measure, given.check > 0)))
        return
    rows = []
    for size in [FIXED, *given.sizes]:
        with tempfile.TemporaryDirectory() as folder:
            make(Path(folder), size)
            command = [sys.executable, __file__, "--measure", folder, "--check"]
            tries = []
            for number in range(ROUNDS):
                check = str(int(size <= given.check and number == 0))
                done = subprocess.run([*command, check], check=True, stdout=subprocess.PIPE, text=True)
                tries.append(json.loads(done.stdout))
                shutil.rmtree(Path(folder) / "out")
        seconds = [each["sections_seconds"] + each["splits_seconds"] for each in tries]
        rows.append(
            {**tries[0], "seconds": round(min(seconds), 2), "all_seconds": [round(each, 2) for each in seconds]}
        )
        print(json.dumps(rows[-1]), flush=True)
    fixed, rows = rows[0]["seconds"], rows[1:]
    cost = [(row["seconds"] - fixed) / row["documents"] for row in rows]
    print(
        json.dumps(
            {
                "case": "growth from the least to the most documents",
                "memory": round(rows[-1]["peak_mb"] / rows[0]["peak_mb"], 3),
                "memory_must_be_below": MUST_GROW_LESS,
                "fixed_seconds": fixed,
                "seconds_per_document": [round(each / cost[0], 3) for each in cost],
                "seconds_must_be_within": MUST_BE_LINEAR,
                "microseconds_per_document": [round(1e6 * each, 1) for each in cost],
                "microseconds_with_fixed": [round(1e6 * row["seconds"] / row["documents"], 1) for row in rows],
            }
        )
    )


if __name__ == "__main__":
    main()
