"""How evenly attention work is shared on packed documents, how many key rows travel, and what the decision costs.

    python benchmarks/partition.py [--quick]

Against the cut that Llama 3 and torch's head-tail balancer make: 2 x ranks chunks of the row, whatever its documents,
and all keys to everyone. Counts of pairs and rows, not times, except for the last line. Prints JSON lines.
"""

import argparse
import json
import time

import numpy as np

from ropewalk.partition.cost import count_pairs, count_rows
from ropewalk.partition.partition import partition_rows
from ropewalk.partition.pieces import Documents, Ranges, find_documents, make_pieces
from ropewalk.partition.zigzag import own_zigzag

TOKENS = 1 << 17
PACKS = {"one document": None, "documents around 32Ki": 1 << 15, "around 4Ki": 1 << 12, "around 1Ki": 1 << 10}


def pack(median_tokens: int | None, seed: int) -> np.ndarray:
    """A row of documents whose lengths are log-normal (sigma 1.3) around ``median_tokens``, cut at the row's end."""
    if median_tokens is None:
        return np.zeros((1, TOKENS), dtype=np.int32)
    lengths = np.random.default_rng(seed).lognormal(np.log(median_tokens), 1.3, size=4000).astype(int) + 1
    return np.repeat(np.arange(4000), np.minimum(lengths, TOKENS))[None, :TOKENS].astype(np.int32)


def measure_head_tail(document: np.ndarray, ranks: int) -> float:
    """Work max/mean if the row is cut in 2 x ranks chunks as if it were one document."""
    row = Documents(Ranges(np.array([0]), np.array([TOKENS])), np.array([True]))
    pieces = make_pieces(find_documents(document), own_zigzag(row, ranks), ranks)
    pairs = count_pairs(pieces, ranks)
    return float(pairs.max() / pairs.mean())


def tell(case: str, peer: str, *, ours: float, theirs: float, unit: str, must_reach: float) -> None:
    figures = {"ours": round(ours, 3), "theirs": round(theirs, 3), "unit": unit}
    # Where nothing is sent there is no ratio to tell.
    ratio = {"ratio": round(theirs / ours, 3) if ours else None, "must_reach": must_reach}
    print(json.dumps({"case": case, "peer": peer, **figures, **ratio}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="3 packs of each kind instead of 12")
    packs = 3 if parser.parse_args().quick else 12
    for name, median_tokens in PACKS.items():
        for ranks in (2, 8):
            documents = [pack(median_tokens, seed) for seed in range(packs if median_tokens else 1)]
            partitions = [partition_rows(document, ranks=ranks) for document in documents]
            case = f"128Ki tokens, {name}, {ranks} ranks"
            balance = float(np.mean([partition.balance for partition in partitions]))
            theirs = float(np.mean([measure_head_tail(document, ranks) for document in documents]))
            tell(
                f"{case}: work", "head-tail over the row", ours=balance, theirs=theirs, unit="max/mean", must_reach=0.9
            )
            rows = float(np.mean([count_rows(each.pieces, ranks).sum() for each in partitions]))
            everything = (ranks - 1) * TOKENS
            tell(f"{case}: key rows", "ring", ours=rows, theirs=everything, unit="rows", must_reach=1.3)
    document, milliseconds = pack(1 << 12, 0), []
    for _ in range(10):
        begun = time.perf_counter()
        partition_rows(document, ranks=8)
        milliseconds.append((time.perf_counter() - begun) * 1e3)
    tell(
        "128Ki tokens, around 4Ki, 8 ranks: decision",
        "50 ms",
        ours=min(milliseconds),
        theirs=50,
        unit="ms",
        must_reach=1,
    )


if __name__ == "__main__":
    main()
