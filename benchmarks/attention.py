"""One layer's attention, forward and backward: ours against what a user would pick instead, in one run, turn by turn.

    python benchmarks/attention.py [--quick] [--tokens 8192,16384] [--dtypes float32,bfloat16] [--parts ranks,scaling]
                                   [--deepspeed-python PATH] [--ringmaster FOLDER]
    python benchmarks/attention.py --device cuda             # one GPU: kernels, and P ranks played in turn
    torchrun --nproc-per-node 8 benchmarks/attention.py --device cuda

``ranks``: against torch's ring attention (head-tail) and DeepSpeed's Ulysses (ulysses.py tells how to install it; said
to be absent without). Both know one document only: on a pack they compute every pair of the row. ``documents``: on one
document and on packs, against those that know documents, the ring of zigzag_ring.py and axolotl-ringmaster
(ringmaster_peer.py), with the kernels that ran, pairs, balance and bytes of each. ``one``: one rank
against scaled_dot_product_attention, with its causal flag, with the dense mask that transformers makes for packed
rows, in a loop over documents, and on a GPU compiled flex_attention. ``scaling``: two ranks over one, beside what two
independent jobs of one rank lose by running at once. ``turns``: one process plays every rank of a partition in turn
while nothing arrives, so times of ranks can be compared without having them.

First both results are compared where both sides compute the same. Prints JSON lines; ``limit`` is milliseconds of
arithmetic at the measured rate of matrix products, and of bytes at the measured rate of the link, of the busiest rank.
"""

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from observe import observe
from packs import draw_pack
from race import clock, find_share_of_datasheet, measure_link, measure_products, race, tell
from ringmaster_peer import KINDS, find_obstacle, find_ringmaster
from ropewalk.parallel.launch import run_ranks
from ropewalk.partition import Partition, partition_tokens
from ropewalk.plan.rank_setup import RankSetup
from sides import NAMES, Setting, check_same, ours, ring, ringmaster, sdpa, ulysses, zigzag
from ulysses import find_version
from zigzag_ring import round_pack

MEDIAN_TOKENS = 4096


def count_bytes(partition: Partition, setting: Setting) -> tuple[int, int]:
    """What the busiest rank sends in forward and backward: ours, and torch's ring, which passes on everything.

    Both return gradients in float32; we fetch keys once more for the backward only where more come than a rank owns.
    """
    rows = partition.traffic_tokens
    busiest = int(max(rows.sum(0).max(), rows.sum(1).max()))
    local = partition.local_tokens
    fetches = 1 if rows.sum(1).max() <= local else 2
    _, kv_heads, head_dim = setting.shape
    row = 2 * kv_heads * head_dim
    element = getattr(torch, setting.dtype).itemsize
    ring_rows = (partition.ranks - 1) * local
    return busiest * row * (fetches * element + 4), row * (2 * ring_rows * element + partition.ranks * local * 4)


def count_flops(pairs: int, setting: Setting) -> float:
    """Of forward and backward: per pair, head and dimension seven products, each a multiplication and an addition."""
    heads, _, head_dim = setting.shape
    return 14.0 * heads * head_dim * pairs


def find_limit(partition: Partition, setting: Setting) -> dict[str, float]:
    """Milliseconds that the busiest rank cannot go below: of arithmetic, and of its bytes on the link."""
    products = measure_products(getattr(torch, setting.dtype), setting.device)
    flops = count_flops(int(partition.pairs.max()), setting)
    link = measure_link(setting.device)
    return {
        "arithmetic_ms": flops / products * 1e3,
        "link_ms": count_bytes(partition, setting)[0] / link * 1e3 if partition.ranks > 1 else 0.0,
    }


def compare(case: str, peer: str, times: dict[str, float], names: tuple[str, str], **more: Any) -> None:
    """Tell of two sides of one race, from the first rank."""
    mine, its = (times.get(name) for name in names)
    assert mine is not None
    if dist.get_rank() == 0:
        tell(case, peer, ours=mine * 1e3, theirs=None if its is None else its * 1e3, unit="ms", **more)


def measure_ranks(setting: Setting, folder: Path) -> None:
    """All ranks of the group against torch's ring and Ulysses, on one document and on a pack."""
    one, pack = draw_pack(setting.tokens, None), draw_pack(setting.tokens, MEDIAN_TOKENS)
    sides = {"one": ours(one, setting), "pack": ours(pack, setting), "ring": ring(setting)}
    same = {"ring": check_same(sides["one"], sides["ring"], (sides["one"].run(), sides["ring"].run()), setting)}
    sides["pack"].run()
    version, peer = find_version(setting.deepspeed_python), None
    if setting.deepspeed_python is not None and version:
        sides["ulysses"], peer = ulysses(setting, folder, setting.deepspeed_python)
        sides["ulysses"].run()
        found = peer.result()
        same["ulysses"] = check_same(
            sides["one"], sides["ulysses"], (sides["one"].run(), tuple(found[name] for name in NAMES)), setting
        )
    times = race({name: side.run for name, side in sides.items()}, turns=setting.turns, device=setting.device)
    if peer is not None:
        peer.close()
    ranks = dist.get_world_size()
    where = f"{setting.tokens} tokens, {setting.dtype}, {ranks} ranks"
    for document, name, reached in ((one, "one", (0.98, 1.0)), (pack, "pack", (2.0, 2.0))):
        partition = partition_tokens(document, ranks=ranks)
        seen = int(partition.pairs.sum()) * 2 / (setting.tokens * (setting.tokens + 1))
        limit = find_limit(partition, setting)
        word = "one document" if name == "one" else "packed documents around 4Ki"
        for other, told, must in (
            ("ring", "torch ring attention, head-tail", reached[0]),
            ("ulysses", f"DeepSpeed {version} Ulysses" if version else "DeepSpeed Ulysses: absent", reached[1]),
        ):
            note = "" if name == "one" else ", which computes all pairs of the row"
            difference = same.get(other) if name == "one" else None
            compare(
                f"{word}, {where}", told + note, times, (name, other), must_reach=must, limit=limit,
                share_of_pairs=seen, difference=difference, turns=setting.turns,
            )  # fmt: skip
        if dist.get_rank() == 0:
            mine, its = count_bytes(partition, setting)
            tell(f"{word}, {where}: sent", "torch ring", ours=mine, theirs=its, unit="bytes", must_reach=1.0)


def measure_documents(setting: Setting) -> None:
    """Against peers that know documents; results are compared first, and what each side did is seen (observe.py)."""
    ranks, heads = dist.get_world_size(), setting.shape[0]
    pack = round_pack(draw_pack(setting.tokens, MEDIAN_TOKENS), 2 * ranks)
    for word, document in (("one document", draw_pack(setting.tokens, None)), ("packed documents around 4Ki", pack)):
        needed, packed = float(partition_tokens(document, ranks=1).pairs.sum()), len(np.unique(document)) > 1
        sides = {"ours": ours(document, setting), "ring that knows documents": zigzag(document, setting)}
        for kind in KINDS if find_ringmaster(setting.ringmaster) else ():
            name = f"axolotl-ringmaster {find_ringmaster(setting.ringmaster)}, {kind}"
            obstacle = find_obstacle(kind, packed=packed, ranks=ranks, kv_heads=setting.shape[1], tokens=setting.tokens)
            if not obstacle:
                sides[name] = ringmaster(document, setting, kind)
            elif dist.get_rank() == 0:
                print(f'{{"peer": "{name}", "case": "{word}, {setting.tokens} tokens", "not run": "{obstacle}"}}')
        mine, seen = observe(sides["ours"].run, heads=heads)
        did, same = {"ours": seen}, {}
        for name, side in list(sides.items())[1:]:
            its, did[name] = observe(side.run, heads=heads)
            same[name] = check_same(sides["ours"], side, (mine, its), setting)
        times = race({name: side.run for name, side in sides.items()}, turns=setting.turns, device=setting.device)
        for name in same:
            compare(
                f"{word}, {setting.tokens} tokens, {setting.dtype}, {ranks} ranks", name, times, ("ours", name),
                must_reach=None, difference=same[name], turns=setting.turns,
                did={who: did[each].beside(needed) for who, each in (("ours", "ours"), ("theirs", name))},
            )  # fmt: skip


def measure_one(setting: Setting) -> None:
    """One rank against the ways that torch offers."""
    pack = draw_pack(setting.tokens, MEDIAN_TOKENS)
    tiny = np.repeat(np.arange(setting.tokens), np.random.default_rng(0).integers(16, 65, setting.tokens))
    cases: list[tuple[str, np.ndarray, list[tuple[str, float]]]] = [
        ("one document", draw_pack(setting.tokens, None), [("causal", 0.98)]),
        ("packed documents around 4Ki", pack, [("mask", 2.0), ("loop", 0.98)]),
        ("documents of 16 to 64", tiny[None, : setting.tokens].astype(np.int32), [("loop", 1.0)]),
    ]
    if setting.device == "cuda":
        cases[1][2].append(("flex", 1.0))
    for word, document, peers in cases:
        side = ours(document, setting)
        others = {how: sdpa(document, setting, how) for how, _ in peers}
        mine = side.run()
        same = {how: check_same(side, other, (mine, other.run()), setting) for how, other in others.items()}
        runs = {"ours": side.run} | {how: other.run for how, other in others.items()}
        times = race(runs, turns=setting.turns, device=setting.device)
        partition = partition_tokens(document, ranks=1)
        rate = count_flops(int(partition.pairs.sum()), setting) / times["ours"]
        for how, must in peers:
            compare(
                f"{word}, {setting.tokens} tokens, {setting.dtype}, 1 rank", f"sdpa, {how}", times, ("ours", how),
                must_reach=must, limit=find_limit(partition, setting), difference=same[how], turns=setting.turns,
                gigaflops=rate / 1e9, of_datasheet=find_share_of_datasheet(rate),
            )  # fmt: skip


def measure_scaling(setting: Setting) -> None:
    """All ranks over one on the same row, and what independent jobs on as many ranks lose by running at once."""
    first = dist.get_rank() == 0
    for word, median, must in (("one document", None, 1.9), ("packed documents around 4Ki", MEDIAN_TOKENS, 1.85)):
        document = draw_pack(setting.tokens, median)
        alone, together = ours(document, setting, alone=True), ours(document, setting)
        runs = {
            "alone": lambda alone=alone: alone.run() if first else None,
            "at once": alone.run,
            "together": together.run,
        }
        for run in runs.values():
            clock(run, setting.device)
        times = race(runs, turns=setting.turns, device=setting.device)
        ranks = dist.get_world_size()
        if first:
            limit = ranks * times["alone"] / times["at once"]
            speedup = times["alone"] / times["together"]
            tell(
                f"{word}, {setting.tokens} tokens, {setting.dtype}: {ranks} ranks over 1", "ourselves on 1 rank",
                ours=times["together"] * 1e3, theirs=times["alone"] * 1e3, unit="ms", must_reach=must,
                limit={"independent_jobs": limit}, of_limit=speedup / limit, turns=setting.turns,
            )  # fmt: skip


def play_ranks(setting: Setting, ranks: int) -> None:
    """Every rank of a partition in turn, in this process, with a group in which nothing arrives."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    for word, median in (("one document", None), ("packed documents around 4Ki", MEDIAN_TOKENS)):
        document, times = draw_pack(setting.tokens, median), []
        for rank in range(ranks):
            dist.init_process_group("fake", rank=rank, world_size=ranks, store=FakeStore())
            side = ours(document, setting)
            side.run()
            times.append(min(clock(side.run, setting.device) for _ in range(setting.turns)))
            dist.destroy_process_group()
        partition = partition_tokens(document, ranks=ranks)
        tell(
            f"{word}, {setting.tokens} tokens, {setting.dtype}, {ranks} ranks played in turn: slowest over mean",
            "pairs, slowest over mean", ours=max(times) * ranks / sum(times), theirs=partition.balance, unit="max/mean",
            must_reach=0.95, turns=setting.turns,
        )  # fmt: skip


def work(part: str, setting: Setting) -> None:
    with tempfile.TemporaryDirectory() as folder:
        folders = [folder]
        dist.broadcast_object_list(folders, src=0)
        {
            "ranks": lambda: measure_ranks(setting, Path(folders[0])),
            "documents": lambda: measure_documents(setting),
            "one": lambda: measure_one(setting),
            "scaling": lambda: measure_scaling(setting),
        }[part]()
        dist.barrier()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="2Ki tokens in float32: within 50 seconds")
    parser.add_argument("--tokens", default="8192,16384,32768")
    parser.add_argument("--dtypes", default="float32,bfloat16")
    parser.add_argument("--parts", help="of one, ranks, documents, scaling, turns")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--deepspeed-python", type=Path, help="a Python that has deepspeed; absent without")
    parser.add_argument("--ringmaster", type=Path, help="a folder that has axolotl-ringmaster; absent without")
    given = parser.parse_args()
    if given.device == "cuda":  # what a GPU is for; torchrun gives the ranks, without it there is one
        given.dtypes, alone = "bfloat16", "RANK" not in os.environ
        given.ranks = 8 if alone else int(os.environ["WORLD_SIZE"])
        given.parts = given.parts or ("one,turns" if alone else "ranks,scaling")
    if given.quick:
        given.tokens, given.dtypes = "2048", "float32"
    torch.set_num_threads(1)
    # Turns come last: they use the device in this process, which then cannot be forked.
    for part in sorted((given.parts or "one,ranks,scaling").split(","), key=lambda part: part == "turns"):
        for dtype in given.dtypes.split(","):
            for tokens in map(int, given.tokens.split(",")):
                setting = Setting(tokens, dtype, given.device, given.turns, given.deepspeed_python, given.ringmaster)
                if part == "turns":
                    play_ranks(setting, given.ranks)
                else:
                    run_ranks(
                        work,
                        1 if part == "one" else given.ranks,
                        part,
                        setting,
                        threads=1,
                        setup=RankSetup(given.device),
                    )


if __name__ == "__main__":
    main()
