"""Recurrent layers over context ranks: what the summaries cost, and whole layers against what a user would pick.

    python benchmarks/recurrence.py counts [--quick]
    python benchmarks/recurrence.py timed [--cases 0,1] [--turns 3] [--state FILE] [--ringmaster FOLDER] [--quick]

``counts``: operations of the summary pass beside those of the layer, its bytes, and balance of both kinds of layers on
a hundred packs; nothing is timed. ``timed`` has these cases, each on two ranks; ``--list`` prints their numbers:

- a gated delta net with its MLP on two ranks over one, beside what two independent jobs lose by running at once;
- against an exchange of heads in the same layer, as Megatron's, on one document and on packs, from 32Ki on;
- against axolotl-ringmaster by the paths that run over gloo (recurrence_sides.py names them; absent without its
  folder): a gated delta net and Mamba-2, alone and three to one with softmax attention, on one document and on packs.

Each side has the same weights; outputs and all gradients are compared first. A turn runs every side once, the next
turn in the opposite order, and a ratio is the median of the ratios of the turns. ``--state FILE`` keeps all turns: the
next command adds to them, and with ``--turns 0`` it only prints. Beside the clock stands processor time, which other
programs disturb less, and what each side did: its path, the operations of its products, and the bytes that it sent.
"""

import argparse
import os
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from kept_turns import Race
from observe import observe
from packs import draw_pack
from race import clock_both, tell
from recurrence_counts import MEDIAN_TOKENS, measure_counts
from recurrence_layers import Sizes
from recurrence_sides import Side, exchange_heads, ours, ringmaster
from ringmaster_peer import find_ringmaster
from ropewalk.parallel.launch import run_ranks
from zigzag_ring import round_pack

SAME, SAME_DECAYS, PACKS = 1e-5, 1e-2, 100
DELTA = Sizes("delta", width=256, mlp_width=768, key_heads=2, heads=2, key_dim=32, value_dim=32)
MAMBA = Sizes("mamba", width=256, mlp_width=768, key_heads=1, heads=8, key_dim=16, value_dim=64)
"""A sixteenth of the widths of Qwen3.5 9B and Granite 4, for two CPU cores. States are smaller too: the operations of a
matrix grow with the square of the width and those of states do not, so with heads as wide as theirs the summary pass
would take 14 % of the layer's operations, in place of 1 %. With these it takes 1.2 %."""
SAME_DOCUMENTS = 8
"""Lengths of documents on packs are multiples of it, so that a peer can halve each."""


class Case(NamedTuple):
    """Two sides on one text."""

    peer: str
    sizes: Sizes
    tokens: int
    median: int | None
    must: float | None

    @property
    def name(self) -> str:
        """In words."""
        text = "one document" if self.median is None else "packed documents around 4Ki"
        layer = {"delta": "gated delta net", "mamba": "Mamba-2"}[self.sizes.kind]
        layers = f"3 blocks of {layer} and 1 of attention" if self.sizes.stack else f"{layer} and MLP"
        return f"{text}, {self.tokens} tokens, {layers}, width {self.sizes.width}, 2 ranks, {self.peer}"

    def draw(self) -> np.ndarray:
        """The row's documents."""
        document = draw_pack(self.tokens, self.median)
        return document if self.median is None else round_pack(document, SAME_DOCUMENTS)


def list_cases(tokens: int) -> list[Case]:
    """All of them; ``tokens`` are those of a row, and an exchange of heads has twice as many."""
    heads = [Case("exchange of heads", DELTA, 2 * tokens, median, 1.0) for median in (None, MEDIAN_TOKENS)]
    peer = [
        Case("axolotl-ringmaster", sizes._replace(stack=stack), tokens, median, must)
        for sizes in (DELTA, MAMBA)
        for stack in (False, True)
        for median, must in ((None, 1.0), (MEDIAN_TOKENS, 1.5))
    ]
    return [Case("over 1 rank", DELTA, tokens, None, 1.7), *heads, *peer]


def measure(case: Case, turns: int, folder: Path | None, state: Path | None) -> None:
    """``turns`` more of a case, and its line. Every rank calls it."""
    race = Race(case.name, state)
    version = find_ringmaster(folder)
    if case.peer == "axolotl-ringmaster" and version is None:
        if dist.get_rank() == 0:
            tell(case.name, f"{case.peer}: absent", ours=0.0, theirs=None, unit="s", must_reach=case.must)
        return
    if turns:
        _race(case, race, turns, folder)
    found = race.compare("ours", "theirs")
    if dist.get_rank() or found is None:
        return
    loads = [turn["load"] for turn in race.turns]
    more: dict[str, Any] = {"did": race.sides, "load": [min(loads), max(loads)]}
    if case.peer == "over 1 rank":
        limit = race.compare("at once", "theirs")
        assert limit is not None
        more["two_independent_jobs"] = {"clock": 2 * limit["paired_ratio"], "processor": 2 * limit["processor_ratio"]}
    more["processor_seconds"] = {
        side: statistics.median(race.seconds(side, clock=1))
        for side in ("ours", "theirs", "at once")
        if side in turns_of(race)
    }
    peer = f"{case.peer} {version}" if case.peer == "axolotl-ringmaster" else case.peer
    tell(case.name, peer, ours=found.pop("ours"), theirs=found.pop("theirs"), unit="s", must_reach=case.must,
         **found, **more)  # fmt: skip


def turns_of(race: Race) -> set[str]:
    """The sides that ran."""
    return {side for turn in race.turns for side in turn}


def _race(case: Case, race: Race, turns: int, folder: Path | None) -> None:
    """Same results first, which warms up both; then turn by turn."""
    document, first = case.draw(), dist.get_rank() == 0
    mine, other = ours(document, case.sizes), _make_other(case, document, folder)
    race.sides = check_same(mine, other, document)
    runs: dict[str, Callable[[], Any]] = {"ours": mine.run, "theirs": other.run}
    if case.peer == "over 1 rank":
        runs = {"theirs": lambda: other.run() if first else None, "at once": other.run, "ours": mine.run}
    for _ in range(turns):
        took: dict[str, Any] = {"load": round(os.getloadavg()[0], 1)}
        for name in list(runs)[:: -1 if len(race.turns) % 2 else 1]:
            took[name] = clock_both(runs[name])
        race.turns.append(took)
        race.write()


def _make_other(case: Case, document: np.ndarray, folder: Path | None) -> Side:
    if case.peer == "over 1 rank":
        return ours(document, case.sizes, alone=True)
    if case.peer == "exchange of heads":
        return exchange_heads(document, case.sizes)
    assert folder is not None
    return ringmaster(document, case.sizes, folder)


class _Products(TorchDispatchMode):
    """Counts operations of products; torch's own counter puts hooks into modules, which ``autograd.grad`` refuses."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if func._overloadpacket in flop_registry:
            self.operations += flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=found)
        return found


def check_same(one: Side, other: Side, document: np.ndarray) -> dict[str, dict[str, Any]]:
    """Output, gradient of the input, and gradients of all weights. What both sides did, with the differences.

    Gradients of the constants of decays are sums that cancel, and have a bar of their own: in float32 both sides are
    1e-4 from float64's at 1Ki tokens.
    """
    largest, did, results = {True: 0.0, False: 0.0}, {}, []
    for name, side in (("ours", one), ("theirs", other)):
        with _Products() as counter:
            found, seen = observe(side.run, heads=1)
        products = torch.tensor(float(counter.operations))
        dist.all_reduce(products, op=dist.ReduceOp.MAX)
        results.append(found)
        did[name] = {"path": side.path, "products": float(products), "sent_bytes": seen.sent_bytes}
    for name, mine, its in zip(one.names, *results, strict=True):
        wholes = []
        for side, share in ((one, mine), (other, its)):
            whole, alone = share.clone(), len(side.own) == document.size
            if name in ("output", "input"):
                whole = torch.zeros(document.size, *share.shape[1:])
                whole[side.own] = share
            if not alone:
                dist.all_reduce(whole)
            wholes.append(whole)
        decays = name.endswith(("mixer.A_log", "mixer.dt_bias", "mixer.in_proj_a.weight"))
        largest[decays] = max(largest[decays], float((wholes[0] - wholes[1]).norm() / wholes[1].norm()))
    assert largest[False] <= SAME and largest[True] <= SAME_DECAYS, f"the sides compute different things: {largest}"
    did["differences"] = {"all": largest[False], "decays": largest[True]}
    return did


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("counts", "timed"))
    parser.add_argument("--quick", action="store_true", help="1Ki tokens, ten packs")
    parser.add_argument("--tokens", type=int, default=16384)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--cases", help="numbers; all without")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--state", type=Path, help="keeps the turns")
    parser.add_argument("--ringmaster", type=Path, help="a folder that has axolotl-ringmaster; absent without")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.part == "counts":
        measure_counts(10 if given.quick else PACKS)
        return
    cases = list_cases(1024 if given.quick else given.tokens)
    chosen = range(len(cases)) if given.cases is None else map(int, given.cases.split(","))
    for number in chosen:
        if given.list:
            print(number, cases[number].name)
        else:
            run_ranks(measure, 2, cases[number], given.turns, given.ringmaster, given.state, threads=1)


if __name__ == "__main__":
    main()
