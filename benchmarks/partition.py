"""How evenly attention work is shared on packed documents, how many key rows travel, and what the decision costs.

    python benchmarks/partition.py [--quick] [--picture docs/partition-tradeoff.png]

Against the cut that Llama 3 and torch's head-tail balancer make: 2 x ranks chunks of the row, whatever its documents,
and all keys to everyone. Then the joint bar: one layout that is balanced and sends little, on a hundred packs. Then
what every layout gives up of the one for the other, as a table and a picture. Counts of pairs and rows, not times,
except for the decision. Prints JSON lines.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from packs import SIGMA, draw_pack
from race import tell, time_alone
from ropewalk.partition.cost import count_pairs
from ropewalk.partition.partition import LAYOUTS, Partition, partition_tokens
from ropewalk.partition.segments import PackedDocuments, find_documents, make_segments
from ropewalk.partition.token_ranges import TokenRanges
from ropewalk.partition.zigzag import own_zigzag

TOKENS = 1 << 17
PACKS = {"one document": None, "documents around 32Ki": 1 << 15, "around 4Ki": 1 << 12, "around 1Ki": 1 << 10}
SMALLEST_TOKENS = 64
TRADE_TOKENS, TRADE_MEDIANS, TRADE_RANKS = 1 << 15, (1 << 10, 1 << 15), (2, 4, 8, 16, 32, 64)
LARGE_TOKENS, LARGE_DOCUMENTS, LARGE_RANKS = 1 << 20, 5000, 64


def measure_head_tail(document: np.ndarray, ranks: int) -> float:
    """Work max/mean if the row is cut in 2 x ranks chunks as if it were one document."""
    row = PackedDocuments(TokenRanges(np.array([0]), np.array([document.size])), np.array([True]))
    pieces = make_segments(find_documents(document), own_zigzag(row, ranks), ranks)
    pairs = count_pairs(pieces, ranks)
    return float(pairs.max() / pairs.mean())


def share_of_ring(partition: Partition) -> float:
    """Key rows that travel, of those that a ring passes on."""
    return float(partition.traffic_tokens.sum() / ((partition.ranks - 1) * partition.tokens))


def count_crumbs(partition: Partition) -> int:
    """Pieces shorter than 64 tokens of documents that are not."""
    pieces = partition.segments
    real = pieces.document >= 0
    length = pieces.ranges.length[real]
    whole = np.bincount(pieces.document[real], weights=length)[pieces.document[real]]
    return int(((length < SMALLEST_TOKENS) & (whole >= SMALLEST_TOKENS)).sum())


def compare_with_head_tail(packs: int) -> None:
    for name, median_tokens in PACKS.items():
        for ranks in (2, 8):
            documents = [draw_pack(TOKENS, median_tokens, seed) for seed in range(packs if median_tokens else 1)]
            partitions = [partition_tokens(document, ranks=ranks) for document in documents]
            case = f"128Ki tokens, {name}, {ranks} ranks"
            balance = float(np.mean([partition.balance for partition in partitions]))
            theirs = float(np.mean([measure_head_tail(document, ranks) for document in documents]))
            tell(
                f"{case}: work", "head-tail over the row", ours=balance, theirs=theirs, unit="max/mean", must_reach=0.98
            )
            rows = float(np.mean([share_of_ring(each) for each in partitions]))
            tell(f"{case}: key rows", "ring", ours=rows, theirs=1.0, unit="of a ring's", must_reach=1.0)


def measure_joint_bar(packs: int) -> None:
    """``auto`` on many packs: balance, bytes and crumbs of one and the same partition."""
    partitions = [partition_tokens(draw_pack(TOKENS, 1 << 12, seed), ranks=8) for seed in range(packs)]
    case = f"{packs} packs of 128Ki, documents around 4Ki, 8 ranks, auto"
    balances = np.array([partition.balance for partition in partitions])
    shares = np.array([share_of_ring(partition) for partition in partitions])
    more = {"worst": float(balances.max()), "layouts": sorted({partition.layout for partition in partitions})}
    tell(f"{case}: work", "1.02", ours=float(balances.mean()), theirs=1.02, unit="max/mean", must_reach=1.0, **more)
    tell(
        f"{case}: bytes", "0.3 of a ring", ours=float(shares.mean()), theirs=0.3, unit="of a ring's", must_reach=1.0,
        worst=float(shares.max()),
    )  # fmt: skip
    crumbs = sum(count_crumbs(partition) for partition in partitions)
    pieces = sum(len(partition.segments.ranges) for partition in partitions)
    tell(
        f"{case}: pieces under {SMALLEST_TOKENS} tokens of longer documents", "none", ours=crumbs, theirs=0,
        unit="pieces", must_reach=1.0, of_pieces=pieces,
    )  # fmt: skip


def measure_decision() -> None:
    """What a batch waits for at most: the layout of all ranks, and one rank's tiles."""
    document = draw_pack(TOKENS, 1 << 12)
    seconds = time_alone(lambda: partition_tokens(document, ranks=8))
    tell("128Ki tokens, around 4Ki, 8 ranks: layout", "50 ms", ours=seconds * 1e3, theirs=50, unit="ms", must_reach=1.0)

    lengths = np.random.default_rng(0).lognormal(0, SIGMA, size=LARGE_DOCUMENTS)
    ends = np.round(np.cumsum(lengths) * LARGE_TOKENS / lengths.sum()).astype(int)
    large = np.repeat(np.arange(LARGE_DOCUMENTS), np.diff(ends, prepend=0))[None].astype(np.int32)

    def decide() -> None:
        partition = partition_tokens(large, ranks=LARGE_RANKS)
        partition.triangles(LARGE_RANKS - 1)
        partition.tiles(LARGE_RANKS - 1)

    seconds = time_alone(decide)
    tell(
        "1Mi tokens, 5,000 documents, 64 ranks: layout of all and tiles of one", "50 ms", ours=seconds * 1e3, theirs=50,
        unit="ms", must_reach=1.0,
    )  # fmt: skip


def measure_trade(packs: int) -> dict[tuple[int, str], list[tuple[float, float]]]:
    """Share of a ring's rows and work max/mean for each median and layout, over the ranks."""
    curves: dict[tuple[int, str], list[tuple[float, float]]] = {}
    for median in TRADE_MEDIANS:
        documents = [draw_pack(TRADE_TOKENS, median, seed) for seed in range(packs)]
        for layout in LAYOUTS:
            for ranks in TRADE_RANKS:
                partitions = [partition_tokens(document, ranks=ranks, layout=layout) for document in documents]
                share = float(np.mean([share_of_ring(partition) for partition in partitions]))
                balance = float(np.mean([partition.balance for partition in partitions]))
                curves.setdefault((median, layout), []).append((share, balance))
                tell(
                    f"32Ki tokens, around {median >> 10}Ki, {ranks} ranks, {layout}", "ring", ours=share, theirs=1.0,
                    unit="of a ring's", must_reach=1.0, balance=balance,
                )  # fmt: skip
    return curves


def draw_trade(curves: dict[tuple[int, str], list[tuple[float, float]]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(TRADE_MEDIANS), figsize=(11, 4.6), sharey=True)
    for axis, median in zip(axes, TRADE_MEDIANS, strict=True):
        for layout in LAYOUTS:
            share, balance = zip(*curves[median, layout], strict=True)
            style: dict[str, Any] = {"marker": "o", "markersize": 5}
            if layout == "auto":  # it lies on the layout that it chose
                style = {"marker": "o", "markersize": 11, "markerfacecolor": "none", "color": "black", "linestyle": ""}
            axis.plot(share, balance, label=layout, **style)
            if layout in ("contiguous", "local"):
                for index in (0, -1):
                    axis.annotate(
                        str(TRADE_RANKS[index]), (share[index], balance[index]), xytext=(6, 4),
                        textcoords="offset points", fontsize=8,
                    )  # fmt: skip
        axis.set(title=f"documents around {median >> 10}Ki in rows of 32Ki", xlabel="key rows sent, of a ring's")
        axis.set_yscale("log", base=2)
        axis.set_yticks([1, 1.5, 2, 3], ["1", "1.5", "2", "3"])
        axis.set_xlim(left=0)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("work, busiest rank over the mean")
    axes[0].legend(frameon=False, title="layouts, over 2 to 64 ranks")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="3 packs of each kind instead of 12, 10 for 100")
    parser.add_argument("--picture", type=Path, help="draw the trade-off here")
    given = parser.parse_args()
    packs = 3 if given.quick else 12
    compare_with_head_tail(packs)
    measure_joint_bar(10 if given.quick else 100)
    measure_decision()
    curves = measure_trade(packs)
    if given.picture is not None:
        draw_trade(curves, given.picture)


if __name__ == "__main__":
    main()
