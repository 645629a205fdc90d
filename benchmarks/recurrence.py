"""Recurrent layers over context ranks: what the summaries cost, and one whole layer against what a user would pick.

    python benchmarks/recurrence.py [--quick] [--tokens 16384,32768] [--parts counts,scaling,heads,ringmaster]
                                    [--ringmaster FOLDER] [--cases 0,1,2]

``counts``: operations of the summary pass beside those of the layer, its bytes, and balance of both kinds of layers on
a hundred packs; counted, not timed. ``scaling``: a gated delta net with its MLP on two ranks over one. ``heads``:
against an exchange of heads in the same layer, as Megatron's. ``ringmaster``: against axolotl-ringmaster
(recurrence_sides.py tells which of its paths run over gloo and how to install it; absent without): a gated delta net on
one document, Mamba-2 on one document and on packs. Each side has the same weights; outputs and all gradients are
compared first. Prints JSON lines; ``processor_seconds`` is processor time, for a machine that others use too; ``load``
is its load before and after.
"""

import argparse
import os
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist

from observe import observe
from packs import draw_pack
from race import clock_both, tell
from recurrence_counts import MEDIAN_TOKENS, measure_counts
from recurrence_sides import Side, Sizes, cut, exchange_heads, ours, ringmaster
from ringmaster_peer import find_ringmaster
from ropewalk.parallel.launch import run_ranks

Cases = tuple[int, ...]
SAME, SAME_DECAYS, PACKS = 1e-5, 1e-2, 100
DELTA = Sizes("delta", width=512, mlp_width=1536, key_heads=2, heads=4, key_dim=128, value_dim=128)
MAMBA = Sizes("mamba", width=512, mlp_width=1536, key_heads=1, heads=16, key_dim=128, value_dim=64)
"""An eighth of the widths of Qwen3.5 9B and Granite 4, for two CPU cores; heads are as wide as theirs."""


def measure_scaling(tokens: int, turns: int, folder: Path | None, chosen: Cases) -> None:
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
            limit={"independent_jobs": limit}, of_limit=times["alone"] / times["together"] / limit,
            **same.tell(), processor_seconds=used, layout=cut(document, DELTA, 2).layout, turns=turns,
            load=raced.load,
        )  # fmt: skip


def measure_heads(tokens: int, turns: int, folder: Path | None, chosen: Cases) -> None:
    """Against an exchange of heads."""
    cases = [("one document", None), ("packed documents around 4Ki", MEDIAN_TOKENS)]
    for word, median in (cases[each] for each in chosen if each < len(cases)):
        document = draw_pack(tokens, median)
        compare(
            f"{word}, {tokens} tokens, gated delta net and MLP, 2 ranks", "exchange of heads, our kernels", DELTA,
            document, exchange_heads(document, DELTA), turns, must=1.0 if tokens >= 1 << 15 else None,
        )  # fmt: skip


def measure_ringmaster(tokens: int, turns: int, folder: Path | None, chosen: Cases) -> None:
    """Against axolotl-ringmaster, by the paths that run over gloo."""
    cases = [
        ("one document", None, DELTA, "gated delta net", "torch fallback of wrap_linear_attn_instance", 1.0),
        ("one document", None, MAMBA, "Mamba-2", "wire_mamba2", 1.0),
        ("packed documents around 4Ki", MEDIAN_TOKENS, MAMBA, "Mamba-2", "wire_mamba2", 1.5),
    ]
    version = find_ringmaster(folder)
    for word, median, sizes, name, path, must in (cases[each] for each in chosen):
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
    """Same results and bytes first, then time."""
    mine = ours(document, sizes)
    same = check_same(mine, other, document)
    raced = race_twice({"ours": mine.run, "theirs": other.run}, turns)
    times, used = raced.seconds, raced.processor
    if dist.get_rank() == 0:
        tell(
            case, peer, ours=times["ours"] * 1e3, theirs=times["theirs"] * 1e3, unit="ms", must_reach=must,
            processor_seconds=used, **same.tell(),
            layout=cut(document, sizes, 2).layout, turns=turns, load=raced.load,
        )  # fmt: skip


class Same(NamedTuple):
    """The largest norm-relative differences of gradients of the constants of decays, and of all else; and the bytes
    that the busiest rank sent on each side, forward and backward.

    Gradients of decays are sums that cancel: in float32 both sides are 1e-4 from float64's at 1Ki tokens.
    """

    decays: float
    others: float
    sent: dict[str, int]

    def tell(self) -> dict[str, Any]:
        """Its figures by the names of a result's line."""
        return {"difference": self.others, "difference_of_decays": self.decays, "sent_bytes": self.sent}


def check_same(one: Side, other: Side, document: np.ndarray) -> Same:
    """Output, gradient of the input, and gradients of all weights."""
    largest = {True: 0.0, False: 0.0}
    (first, mine_seen), (second, its_seen) = (observe(side.run, heads=1) for side in (one, other))
    for name, mine, its in zip(one.names, first, second, strict=True):
        wholes = []
        for side, share in ((one, mine), (other, its)):
            whole, alone = share.clone(), len(side.own) == document.size
            if name in ("output", "input"):
                whole = torch.zeros(document.size, *share.shape[1:])
                whole[side.own] = share
            if not alone:
                dist.all_reduce(whole)
            wholes.append(whole)
        decays = name in ("mixer.A_log", "mixer.dt_bias", "mixer.in_proj_a.weight")
        largest[decays] = max(largest[decays], float((wholes[0] - wholes[1]).norm() / wholes[1].norm()))
    sent = {"ours": int(mine_seen.sent_bytes), "theirs": int(its_seen.sent_bytes)}
    same = Same(largest[True], largest[False], sent)
    assert same.others <= SAME and same.decays <= SAME_DECAYS, f"the sides compute different things: {same}"
    return same


class Race(NamedTuple):
    """Median seconds of each side over turns, of its slowest rank: by the clock, and of processor time, which others on
    the machine disturb less. ``load`` is the machine's, before and after."""

    seconds: dict[str, float]
    processor: dict[str, float]
    load: list[float]


def race_twice(runs: Mapping[str, Callable[[], Any]], turns: int) -> Race:
    """Turn by turn; results have been compared before, so all sides are warm."""
    load = [round(os.getloadavg()[0], 1)]
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    processor: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(turns):
        for name, run in runs.items():
            elapsed, used = clock_both(run)
            seconds[name].append(elapsed)
            processor[name].append(used)
    load.append(round(os.getloadavg()[0], 1))
    return Race(*({name: statistics.median(each) for name, each in of.items()} for of in (seconds, processor)), load)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="1Ki tokens, one turn, ten packs")
    parser.add_argument("--tokens", default="16384,32768")
    parser.add_argument("--parts", default="counts,scaling,heads,ringmaster")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--ringmaster", type=Path, help="a folder that has axolotl-ringmaster; absent without")
    parser.add_argument("--cases", default="0,1,2", help="of heads and of ringmaster, so that a run can be resumed")
    given = parser.parse_args()
    chosen = tuple(map(int, given.cases.split(",")))
    if given.quick:
        given.tokens, given.turns = "1024", 1
    torch.set_num_threads(1)
    timed = {"scaling": measure_scaling, "heads": measure_heads, "ringmaster": measure_ringmaster}
    for part in given.parts.split(","):
        if part == "counts":
            measure_counts(10 if given.quick else PACKS)
            continue
        for tokens in map(int, given.tokens.split(",")):
            run_ranks(timed[part], 2, tokens, given.turns, given.ringmaster, chosen, threads=1)


if __name__ == "__main__":
    main()
