"""How fast text is cleaned and near-copies are found, beside what a user would pick, and how that grows.

    python benchmarks/corpus_clean.py --peers VENV/bin/python --data FOLDER [--quick] [--growth]

Peers live in an environment of their own (datatrove[io,processing], datasketch, spacy, jieba) and run as a subprocess
(benchmarks/corpus_peers.py); both sides take turns on the same parts of the same text, and only processor time inside
their work counts: no imports, no reading. FOLDER holds .jsonl.zst with ``text``; Python's own library is added as code.
Prints JSON lines {case, peer, ours, theirs, unit, ratio, must_reach}.
"""

import argparse
import json
import resource
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import xxhash

from ropewalk.core.record import Document
from ropewalk.corpus.clean.document import clean_document
from ropewalk.corpus.dedup.minhash import group_similar, sign
from ropewalk.corpus.embedded import embedded_documents
from ropewalk.corpus.read.source import read_source
from ropewalk.corpus.spec import Source
from ropewalk.corpus.text.profile import PROFILES
from ropewalk.corpus.text.reject import Reject

PARTS = 6
PIECE_CHARACTERS = 1 << 18
PROFILE_OF = {"en": "prose_en", "zh": "prose_zh", "code": "code", "law": "law"}


def collect(data: Path, megabytes: float) -> list[dict[str, str]]:
    """Laws, books, poems and programs, mixed by a fixed shuffle, books in pieces."""
    texts: list[dict[str, str]] = []
    for path in sorted(data.glob("*.jsonl.zst")):
        kind = "law" if "law" in path.name else "zh" if "zh" in path.name else "en"
        source = Source(name="data", path=str(path), role="general", language="zh" if kind != "en" else "en")
        for item in read_source(source, seed=0):
            assert isinstance(item, Document)
            for at in range(0, len(item.text), PIECE_CHARACTERS):
                texts.append({"kind": kind, "text": item.text[at : at + PIECE_CHARACTERS]})
    library = Path(sysconfig.get_path("stdlib"))
    for path in sorted(library.rglob("*.py")):
        if "site-packages" not in path.parts:
            texts.append({"kind": "code", "text": path.read_text(encoding="utf-8", errors="replace")})
    order = np.random.default_rng(0).permutation(len(texts)).tolist()
    kept, size = [], 0.0
    for number in order:
        if size < 1e6 * megabytes:
            kept.append({**texts[number], "id": str(len(kept))})
            size += len(texts[number]["text"].encode())
    return kept


def clean_ours(texts: list[dict[str, str]], seen: set[int]) -> list[str]:
    """A decision for each text: kept, or why not."""
    decisions = []
    for entry in texts:
        language = "zh" if entry["kind"] == "law" else entry["kind"]
        document = Document(entry["text"], "data", "general", language, entry["id"])
        outcome = clean_document(document, PROFILES[PROFILE_OF[entry["kind"]]]).outcome
        if isinstance(outcome, Reject):
            decisions.append(outcome.reason)
            continue
        digest = xxhash.xxh3_64_intdigest(outcome.text.encode())
        decisions.append("exact duplicate" if digest in seen else "kept")
        seen.add(digest)
    return decisions


def copies_ours(texts: list[dict[str, str]]) -> int:
    """How many near-copies would be dropped at 0.8."""
    signatures = np.array([sign(entry["text"]) for entry in texts])
    groups = group_similar(signatures, threshold=0.8)
    return len(groups) - len(np.unique(groups))


class Peers:
    """The subprocess that does the peers' work."""

    def __init__(self, python: str, texts: Path) -> None:
        script = Path(__file__).with_name("corpus_peers.py")
        self._process = subprocess.Popen(
            [python, str(script), str(texts)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, step: str, first: int, last: int, **more: object) -> dict[str, object]:
        """Processor seconds and results of one step on one part."""
        assert self._process.stdin is not None and self._process.stdout is not None
        print(json.dumps({"step": step, "first": first, "last": last, **more}), file=self._process.stdin, flush=True)
        answer: dict[str, object] = json.loads(self._process.stdout.readline())
        return answer


def clocked(work: Callable[[], object]) -> tuple[float, object]:
    begun = time.process_time()
    result = work()
    return time.process_time() - begun, result


def tell(case: str, peer: str, ours: float, theirs: float, unit: str, must_reach: float, **more: object) -> None:
    figures = {"case": case, "peer": peer, "ours": round(ours, 3), "theirs": round(theirs, 3), "unit": unit}
    print(json.dumps({**figures, "ratio": round(ours / theirs, 2), "must_reach": must_reach, **more}), flush=True)


def compare(texts: list[dict[str, str]], peers: Peers) -> None:
    """Part by part, ours and theirs in turn."""
    borders = np.linspace(0, len(texts), PARTS + 1).astype(int).tolist()
    seen: set[int] = set()
    totals: dict[str, float] = dict.fromkeys(("clean", "copies", "filters", "datatrove", "datasketch"), 0.0)
    ours_kept: list[bool] = []
    theirs_kept: list[bool] = []
    found = {"ours": 0, "datatrove": 0, "datasketch": 0}
    size = 0.0
    for first, last in pairwise(borders):
        part = texts[first:last]
        size += sum(len(entry["text"].encode()) for entry in part) / 1e6
        seconds, decisions = clocked(lambda part=part: clean_ours(part, seen))
        totals["clean"] += seconds
        ours_kept += [decision == "kept" for decision in decisions]  # type: ignore[attr-defined]
        answer = peers.ask("filters", first, last)
        totals["filters"] += float(str(answer["seconds"]))
        theirs_kept += [decision == "kept" for decision in answer["decisions"]]  # type: ignore[attr-defined]
        seconds, dropped = clocked(lambda part=part: copies_ours(part))
        totals["copies"] += seconds
        found["ours"] += int(str(dropped))
        for name in ("datatrove", "datasketch"):
            answer = peers.ask(name, first, last)
            totals[name] += float(str(answer["seconds"]))
            found[name] += int(str(answer["dropped"]))
    same = float(np.mean(np.array(ours_kept) == np.array(theirs_kept)))
    more = {"megabytes": round(size, 1), "documents": len(texts)}
    kept = {"ours_keep": sum(ours_kept), "theirs_keep": sum(theirs_kept), "same_decision": round(same, 3)}
    unit = "MB per core-second"
    tell(
        "clean + exact", "datatrove filters", size / totals["clean"], size / totals["filters"], unit, 10, **more, **kept
    )
    for name, must_reach in (("datatrove", 10), ("datasketch", 1.5)):
        dropped_by = {"ours_drop": found["ours"], "theirs_drop": found[name]}
        speeds = size / totals["copies"], size / totals[name]
        tell("MinHash end to end", name, *speeds, unit, must_reach, **more, **dropped_by)


def grow(sizes: list[int]) -> None:
    """Clean, digest and sign generated text of growing size in fresh processes; seconds per MB and peak memory."""
    rows = []
    for megabytes in sizes:
        done = subprocess.run(
            [sys.executable, __file__, "--grow-one", str(megabytes)], capture_output=True, text=True, check=True
        )
        rows.append(json.loads(done.stdout))
    first = rows[0]
    for row in rows[1:]:
        case = f"clean + exact + sign, {row['megabytes']} MB"
        per = row["seconds"] / row["megabytes"], first["seconds"] / first["megabytes"]
        tell(f"{case}: time per MB", f"{first['megabytes']} MB", per[1], per[0], "seconds per MB", 0.9)
        peaks = first["peak_mb"], row["peak_mb"]
        tell(f"{case}: peak memory", f"{first['megabytes']} MB", *peaks, "MB", 0.8)


def grow_one(megabytes: int) -> None:
    """One size, for a process of its own."""

    def generated() -> Iterator[Document]:
        left, seed = megabytes * 1e6, 0
        while left > 0:
            for name in ("stories_en", "stories_zh"):
                for document in embedded_documents(name, seed=seed, size_bytes=5_000_000, options={}):
                    left -= len(document.text.encode())
                    yield document
            seed += 1

    seconds, seen = 0.0, set()
    for document in generated():
        begun = time.process_time()
        outcome = clean_document(document, PROFILES[f"prose_{document.language}"]).outcome
        if isinstance(outcome, Document):
            seen.add(xxhash.xxh3_64_intdigest(outcome.text.encode()))
            sign(outcome.text)
        seconds += time.process_time() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    print(json.dumps({"megabytes": megabytes, "seconds": seconds, "peak_mb": peak}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", help="the python of an environment with the peers")
    parser.add_argument("--data", type=Path, help="a folder of .jsonl.zst")
    parser.add_argument("--quick", action="store_true", help="2 MB instead of 52")
    parser.add_argument("--growth", action="store_true", help="10 MB, 100 MB and 1 GB of generated text instead")
    parser.add_argument("--grow-one", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.grow_one:
        grow_one(given.grow_one)
    elif given.growth:
        grow([1, 10] if given.quick else [10, 100, 1000])
    else:
        texts = collect(given.data, 2 if given.quick else 52)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "texts.jsonl"
            path.write_text("".join(json.dumps(entry) + "\n" for entry in texts), encoding="utf-8")
            compare(texts, Peers(given.peers, path))


if __name__ == "__main__":
    main()
