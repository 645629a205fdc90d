"""Recurrent layers over context ranks: what the summaries cost, and one whole layer against what a user would pick.

    python benchmarks/recurrence.py [--quick] [--tokens 16384,32768] [--parts counts,scaling,heads,ringmaster]
                                    [--ringmaster FOLDER]

``counts``: operations of the summary pass beside those of the layer, its bytes, and balance of both kinds of layers on
a hundred packs; counted, not timed. ``scaling``: a gated delta net with its MLP on two ranks over one. ``heads``:
against an exchange of heads in the same layer, as Megatron's. ``ringmaster``: against axolotl-ringmaster
(recurrence_sides.py tells which of its paths run over gloo and how to install it; absent without): a gated delta net on
one document, Mamba-2 on one document and on packs. Each side has the same weights; outputs and all gradients are
compared first. Prints JSON lines; ``processor_seconds``
is processor time, for a machine that others use too; ``load`` is its load before and after.
"""

import argparse
import os
import time
from collections.abc import Callable, Mapping
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch.utils.flop_counter import FlopCounterMode

from packs import draw_pack
from race import race_turns, tell
from recurrence_sides import Side, Sizes, cut, exchange_heads, ours, ringmaster
from ropewalk.parallel.launch import run_ranks
from ropewalk.partition import Partition, partition_tokens
from ropewalk.partition.cost import Heads, price_of
from ropewalk.partition.needed_keys import count_traffic_tokens
from ropewalk.partition.recurrent_cost import RecurrentStates, count_summaries
from ropewalk.recurrence import segment_scan

MEDIAN_TOKENS, SAME = 4096, 1e-3
DELTA = Sizes("delta", width=512, mlp_width=1536, key_heads=2, heads=4, key_dim=128, value_dim=128)
MAMBA = Sizes("mamba", width=512, mlp_width=1536, key_heads=1, heads=16, key_dim=128, value_dim=64)
"""An eighth of the widths of Qwen3.5 9B and Granite 4, for two CPU cores; heads are as wide as theirs."""
LARGE = Sizes("delta", width=4096, mlp_width=12288, key_heads=16, heads=32, key_dim=128, value_dim=128)
LARGE_HEADS = Heads(16, 4, 256)
"""Qwen3.5 9B, three gated delta nets for each layer with attention."""
PACKS, COUNT_TOKENS, COUNT_RANKS = 100, 1 << 17, 8


def measure_counts(packs: int) -> None:
    """Nothing here is timed."""
    states = LARGE.states
    price = price_of(LARGE_HEADS, device="cuda", element_bytes=2, recurrent=states)
    dense = dense_operations(LARGE)
    counted = count_summary_pass(LARGE._replace(key_heads=2, heads=4)) * LARGE.heads / 4
    tell(
        "Qwen3.5 9B, summary pass of a gated delta net, operations a token of an inner segment",
        "the layer's dense operations, 3 % allowed", ours=counted, theirs=0.03 * dense, unit="operations",
        must_reach=1.0, share=counted / dense, priced=states.summary_operations(),
    )  # fmt: skip
    for tokens in (COUNT_TOKENS, 1 << 20):
        partition = partition_tokens(draw_pack(tokens, None), ranks=COUNT_RANKS, price=price)
        ring = (COUNT_RANKS - 1) * partition.local_tokens * 2 * LARGE_HEADS.kv_heads * LARGE_HEADS.head_dim * 2
        tell(
            f"Qwen3.5 9B, bytes that the busiest rank receives in a delta layer's forward, {tokens} tokens, 8 ranks",
            "a fifth of its attention layer's ring", ours=count_bytes(partition, states, 2), theirs=ring / 5,
            unit="bytes", must_reach=1.0,
        )  # fmt: skip
    documents = [draw_pack(COUNT_TOKENS, MEDIAN_TOKENS, seed) for seed in range(packs)]
    for layout, must in (("auto", 1.0), ("contiguous", None), ("zigzag", None)):
        partitions = [partition_tokens(each, ranks=COUNT_RANKS, layout=layout, price=price) for each in documents]
        ratios = [works.max() / works.mean() for works in map(count_work, partitions)]
        received = [count_summaries(each.segments, COUNT_RANKS).received_bytes(states).max() for each in partitions]
        tell(
            f"Qwen3.5 9B, work of all layers, max/mean, worst of {packs} packs around 4Ki in 128Ki, 8 ranks, {layout}",
            "1.05", ours=float(max(ratios)), theirs=1.05, unit="max/mean", must_reach=must,
            mean=float(np.mean(ratios)), attention_alone=float(max(each.balance for each in partitions)),
            summaries_mib=float(np.mean(received)) / (1 << 20), most_summaries_mib=float(max(received)) / (1 << 20),
            layouts=sorted({each.layout for each in partitions}),
        )  # fmt: skip


def dense_operations(sizes: Sizes) -> int:
    """Operations a token in the forward of a gated delta net's matrices and its MLP's."""
    inner = sizes.heads * sizes.value_dim
    return 2 * sizes.width * (sizes.channels + 2 * inner + 2 * sizes.heads + 3 * sizes.mlp_width)


def count_summary_pass(sizes: Sizes, tokens: int = 512) -> float:
    """Operations a token that ``scan`` needs more for an inner segment, as torch counts its products."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", rank=1, world_size=3, store=FakeStore())
    document = np.zeros((1, 3 * tokens), dtype=np.int32)
    partition = partition_tokens(document, ranks=3, layout="contiguous")
    keys, values = (torch.randn(tokens, *each) for each in ((sizes.key_heads, 128), (sizes.heads, 128)))
    decay, counter = -torch.rand(tokens, sizes.heads), FlopCounterMode(display=False)
    original, found = segment_scan._sum_up, []

    def counted(*args: Any) -> Any:
        with counter:
            result = original(*args)
        found.append(counter.get_total_flops())
        return result

    segment_scan._sum_up = counted
    try:
        segment_scan.scan(
            keys, keys, values, decay, decay.sigmoid(), kind="gated_delta", partition=partition, group=dist.group.WORLD
        )
    finally:
        segment_scan._sum_up = original
        dist.destroy_process_group()
    return found[0] / tokens


def count_work(partition: Partition) -> np.ndarray:
    """Operations of each rank in the forward of four layers, three of them delta nets: [ranks]."""
    states, counts = LARGE.states, count_summaries(partition.segments, partition.ranks)
    width, chunk = LARGE_HEADS.heads * LARGE_HEADS.head_dim, 64
    scanned = 2 * LARGE.heads * LARGE.key_dim * (4 * chunk + 3 * LARGE.value_dim)
    attention = 2 * LARGE.width * (3 * width + 2 * LARGE_HEADS.kv_heads * LARGE_HEADS.head_dim + 3 * LARGE.mlp_width)
    token = 3 * (dense_operations(LARGE) + scanned) + attention
    composed = 3 * 2 * LARGE.heads * LARGE.key_dim**2 * LARGE.value_dim * counts.links
    again = 3 * states.summary_operations() * counts.inner_tokens
    work: np.ndarray = token * partition.local_tokens + 4 * width * partition.pairs + again + composed
    return work


def count_bytes(partition: Partition, states: RecurrentStates, element_bytes: int) -> float:
    """Summaries and rows before segments that the busiest rank receives in one layer's forward."""
    rows = count_traffic_tokens(partition.segments, partition.ranks, states.taps).sum(1)
    received = count_summaries(partition.segments, partition.ranks).received_bytes(states)
    return float((received + rows * states.channels * element_bytes).max())


def measure_scaling(tokens: int, turns: int, folder: Path | None) -> None:
    """All ranks over one, beside what as many independent jobs lose by running at once."""
    document, first = draw_pack(tokens, None), dist.get_rank() == 0
    alone, together = ours(document, DELTA, alone=True), ours(document, DELTA)
    same = check_same(alone, together, document)
    runs = {
        "alone": lambda: alone.run() if first else None,
        "at once": alone.run,
        "together": together.run,
    }
    raced = race_twice(runs, turns)
    times, used = raced.seconds, raced.processor
    if first:
        limit = dist.get_world_size() * times["alone"] / times["at once"]
        tell(
            f"one document, {tokens} tokens, gated delta net and MLP: 2 ranks over 1", "ourselves on 1 rank",
            ours=times["together"] * 1e3, theirs=times["alone"] * 1e3, unit="ms", must_reach=1.7,
            limit={"independent_jobs": limit}, of_limit=times["alone"] / times["together"] / limit, difference=same,
            processor_seconds=used, layout=cut(document, DELTA, 2).layout, turns=turns,
            load=raced.load,
        )  # fmt: skip


def measure_heads(tokens: int, turns: int, folder: Path | None) -> None:
    """Against an exchange of heads."""
    for word, median in (("one document", None), ("packed documents around 4Ki", MEDIAN_TOKENS)):
        document = draw_pack(tokens, median)
        compare(
            f"{word}, {tokens} tokens, gated delta net and MLP, 2 ranks", "exchange of heads, our kernels", DELTA,
            document, exchange_heads(document, DELTA), turns, must=1.0 if tokens >= 1 << 15 else None,
        )  # fmt: skip


def measure_ringmaster(tokens: int, turns: int, folder: Path | None) -> None:
    """Against axolotl-ringmaster, by the paths that run over gloo."""
    cases = [
        ("one document", None, DELTA, "gated delta net", "torch fallback of wrap_linear_attn_instance", 1.0),
        ("one document", None, MAMBA, "Mamba-2", "wire_mamba2", 1.0),
        ("packed documents around 4Ki", MEDIAN_TOKENS, MAMBA, "Mamba-2", "wire_mamba2", 1.5),
    ]
    version = find_version(folder)
    for word, median, sizes, name, path, must in cases:
        document, case = draw_pack(tokens, median), f"{word}, {tokens} tokens, {name} and MLP, 2 ranks"
        if version is None or folder is None:
            if dist.get_rank() == 0:
                tell(case, "axolotl-ringmaster: absent", ours=0.0, theirs=None, unit="ms", must_reach=must)
            continue
        peer = ringmaster(document, sizes, folder)
        compare(case, f"axolotl-ringmaster {version}, {path}", sizes, document, peer, turns, must=must)


def compare(
    case: str, peer: str, sizes: Sizes, document: np.ndarray, other: Side, turns: int, *, must: float | None
) -> None:
    """Same results first, then bytes, then time."""
    mine = ours(document, sizes)
    same = check_same(mine, other, document)
    sent = {name: count_sent(side.run) for name, side in (("ours", mine), ("theirs", other))}
    raced = race_twice({"ours": mine.run, "theirs": other.run}, turns)
    times, used = raced.seconds, raced.processor
    if dist.get_rank() == 0:
        tell(
            case, peer, ours=times["ours"] * 1e3, theirs=times["theirs"] * 1e3, unit="ms", must_reach=must,
            processor_seconds=used, difference=same, sent_bytes=sent,
            layout=cut(document, sizes, 2).layout, turns=turns, load=raced.load,
        )  # fmt: skip


def check_same(one: Side, other: Side, document: np.ndarray) -> float:
    """The largest norm-relative difference of output, gradient of the input, and gradients of all weights."""
    largest = 0.0
    for place, (mine, its) in enumerate(zip(one.run(), other.run(), strict=True)):
        wholes = []
        for side, share in ((one, mine), (other, its)):
            whole, alone = share.clone(), len(side.own) == document.size
            if place < 2:
                whole = torch.zeros(document.size, *share.shape[1:])
                whole[side.own] = share
            if not alone:
                dist.all_reduce(whole)
            wholes.append(whole)
        largest = max(largest, float((wholes[0] - wholes[1]).norm() / wholes[1].norm()))
    assert largest <= SAME, f"the sides compute different things: {largest}"
    return largest


def count_sent(run: Callable[[], Any]) -> int:
    """Bytes that this rank sends in one run, forward and backward; of an all-reduce as round a ring."""
    sent, ranks = [0], dist.get_world_size()

    def count(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def counted(out: Any, *args: Any, **kwargs: Any) -> Any:
            tensor = out if name == "all_reduce" else args[0]
            splits = args[2] if len(args) > 2 else None
            if name == "all_reduce":
                sent[0] += 2 * (ranks - 1) * tensor.nbytes // ranks
            elif name == "all_gather":
                sent[0] += (ranks - 1) * tensor.nbytes
            elif splits is not None:
                away = sum(each for rank, each in enumerate(splits) if rank != dist.get_rank())
                sent[0] += away * tensor[:1].nbytes
            else:
                sent[0] += tensor.nbytes * (ranks - 1) // ranks
            return original(out, *args, **kwargs)

        return counted

    originals: Mapping[str, Any] = {
        name: getattr(dist, name) for name in ("all_to_all_single", "all_gather", "all_reduce")
    }
    for name, original in originals.items():
        setattr(dist, name, count(name, original))
    try:
        run()
    finally:
        for name, original in originals.items():
            setattr(dist, name, original)
    return sent[0]


class Race(NamedTuple):
    """Least seconds of each side, of its slowest rank: by the clock, and of processor time, which others on the machine
    disturb less. ``load`` is the machine's, before and after."""

    seconds: dict[str, float]
    processor: dict[str, float]
    load: list[float]


def race_twice(runs: Mapping[str, Callable[[], Any]], turns: int) -> Race:
    """Turn by turn; results have been compared before, so all sides are warm."""
    load, processor = [os.getloadavg()[0]], {name: float("inf") for name in runs}

    def note(name: str, run: Callable[[], Any]) -> Callable[[], None]:
        def noted() -> None:
            begun = time.process_time()
            run()
            used[name] = time.process_time() - begun

        return noted

    used: dict[str, float] = {}
    noted = {name: note(name, run) for name, run in runs.items()}
    seconds = {name: float("inf") for name in runs}
    for _ in range(turns):
        for name, each in race_turns(noted, turns=1).items():
            seconds[name] = min(seconds[name], *each)
            slowest = torch.tensor(used[name])
            dist.all_reduce(slowest, op=dist.ReduceOp.MAX)
            processor[name] = min(processor[name], float(slowest))
    return Race(seconds, processor, [*load, os.getloadavg()[0]])


def find_version(folder: Path | None) -> str | None:
    """The version of the peer in a folder; None without one."""
    found = distributions(path=[str(folder)]) if folder else ()
    return next((each.version for each in found if each.name == "axolotl-ringmaster"), None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="1Ki tokens, one turn, ten packs")
    parser.add_argument("--tokens", default="16384,32768")
    parser.add_argument("--parts", default="counts,scaling,heads,ringmaster")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--ringmaster", type=Path, help="a folder that has axolotl-ringmaster; absent without")
    given = parser.parse_args()
    if given.quick:
        given.tokens, given.turns = "1024", 1
    torch.set_num_threads(1)
    timed = {"scaling": measure_scaling, "heads": measure_heads, "ringmaster": measure_ringmaster}
    for part in given.parts.split(","):
        if part == "counts":
            measure_counts(10 if given.quick else PACKS)
            continue
        for tokens in map(int, given.tokens.split(",")):
            run_ranks(timed[part], 2, tokens, given.turns, given.ringmaster, threads=1)


if __name__ == "__main__":
    main()
