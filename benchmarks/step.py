"""A whole training step, forward, backward and AdamW: ours against what a user would pick instead, turn by turn.

    python benchmarks/step.py [--quick] [--parts packed,memory,mission,scaling] [--tokens 16384] [--dtypes bfloat16]
                              [--turns 5] [--deepspeed-python PATH] [--ringmaster FOLDER]
    python benchmarks/step.py --device cuda                  # one GPU: packed and memory
    torchrun --nproc-per-node 8 benchmarks/step.py --device cuda --parts mission --tokens 131072

``packed``: one rank, 16 documents in 8Ki, against transformers by itself: positions that restart, a dense mask, its
loss. ``memory``: the peaks of both in fresh processes, above what the model and its optimizer hold. ``mission``: all
ranks, one document and a pack, against the peers of mission_race.py: torch's ring, a ring that knows documents,
DeepSpeed's Ulysses (ulysses.py tells how to install it) and axolotl-ringmaster (ringmaster_peer.py). ``--sides`` picks
some of them, ``--state FILE`` keeps the turns of all commands, ``--receipts`` writes a receipt of each side for
``ropewalk receipt A B``. ``scaling``: the ranks over one. trainee.py has the model. Losses of the first two steps are
compared, where both sides mean the same.

Prints JSON lines; ``limit_ms`` is the step's arithmetic at the rate of matrix products that was measured in the run.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from mission_race import MEDIAN_TOKENS, SIDES, Peers, check_losses, run_mission
from packs import draw_pack
from race import clock, measure_products, race, tell
from ropewalk.parallel.launch import run_ranks
from ropewalk.partition import partition_tokens
from ropewalk.plan.rank_setup import RankSetup
from trainee import SHAPE, count_flops, make_default_step, make_our_step

PACKED_DOCUMENTS = 16


class Setting(NamedTuple):
    """What all cases of a run share."""

    tokens: int
    dtype: str
    device: str
    turns: int
    peers: Peers

    @property
    def word(self) -> str:
        return f"{self.tokens} tokens, {self.dtype}"


def pack_evenly(tokens: int) -> np.ndarray:
    return np.repeat(np.arange(PACKED_DOCUMENTS), tokens // PACKED_DOCUMENTS)[None].astype(np.int32)


def read_losses(run: Callable[[], Tensor]) -> Tensor:
    """Losses over all ranks of two steps: the second one tells of the gradients too."""
    return torch.stack([_sum(run()), _sum(run())])


def _sum(loss: Tensor) -> Tensor:
    total = loss.double().cpu()
    if dist.get_world_size() > 1:
        dist.all_reduce(total)
    return total


def find_limit(setting: Setting, document: np.ndarray, ranks: int) -> float:
    """Milliseconds of arithmetic with work shared evenly."""
    pairs = int(partition_tokens(document, ranks=1).pairs.sum())
    rate = measure_products(getattr(torch, setting.dtype), setting.device)
    return count_flops(document.size, pairs) / ranks / rate * 1e3


def measure_packed(setting: Setting) -> None:
    """One rank, 16 equal documents: ours and transformers' own way."""
    document = pack_evenly(setting.tokens)
    ways = {"dtype": setting.dtype, "device": setting.device}
    runs = {"ours": make_our_step(document, **ways), "theirs": make_default_step(document, **ways)}
    difference = check_losses({name: read_losses(run) for name, run in runs.items()}, setting.dtype)
    times = race(runs, turns=setting.turns, device=setting.device)
    tell(
        f"16 packed documents, {setting.word}, 1 rank", "transformers' default for packed rows",
        ours=times["ours"] * 1e3, theirs=times["theirs"] * 1e3, unit="ms", must_reach=5.0,
        limit_ms=find_limit(setting, document, 1), loss_difference=difference, turns=setting.turns,
    )  # fmt: skip


def measure_memory(setting: Setting) -> None:
    """The peak of a step above the process's base, each side in a process of its own."""
    peaks = {}
    for side in ("ours", "theirs"):
        command = [sys.executable, __file__, "--peak", side, "--device", setting.device, "--dtypes", setting.dtype]
        told = subprocess.run([*command, "--tokens", str(setting.tokens)], check=True, capture_output=True, text=True)
        peaks[side] = float(told.stdout.split()[-1])
    tell(
        f"16 packed documents, {setting.word}, 1 rank: peak above the base", "transformers' default for packed rows",
        ours=peaks["ours"] / 2**20, theirs=peaks["theirs"] / 2**20, unit="MiB", must_reach=4.0,
    )  # fmt: skip


def find_peak(setting: Setting, side: str) -> int:
    """Bytes of a first step above the process with its model: activations, gradients, AdamW's states."""
    make = {"ours": make_our_step, "theirs": make_default_step}[side]
    run = make(pack_evenly(setting.tokens), dtype=setting.dtype, device=setting.device)
    if setting.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        base = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - base
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again from here
    base = _read_status("VmRSS")
    run()
    return _read_status("VmHWM") - base


def _read_status(field: str) -> int:
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[field].split()[0]) * 1024


def measure_mission(setting: Setting, folder: Path) -> None:
    """All ranks: ours on one document and on a pack, and the peers of mission_race.py."""
    run_mission(setting.tokens, setting.dtype, setting.device, turns=setting.turns, peers=setting.peers, folder=folder)


def measure_scaling(setting: Setting) -> None:
    """All ranks over one, and what independent jobs on as many ranks lose by running at once."""
    first, ranks = dist.get_rank() == 0, dist.get_world_size()
    for word, median in (("one document", None), ("packed documents around 4Ki", MEDIAN_TOKENS)):
        document, ways = draw_pack(setting.tokens, median), {"dtype": setting.dtype, "device": setting.device}
        alone, together = make_our_step(document, **ways, alone=True), make_our_step(document, **ways)
        runs: dict[str, Callable[[], object]] = {
            "alone": lambda alone=alone: alone() if first else None,
            "at once": alone,
            "together": together,
        }
        for run in runs.values():
            clock(run, setting.device)
        times = race(runs, turns=setting.turns, device=setting.device)
        limit, speedup = ranks * times["alone"] / times["at once"], times["alone"] / times["together"]
        if first:
            tell(
                f"step, {word}, {setting.word}: {ranks} ranks over 1", "ourselves on 1 rank",
                ours=times["together"] * 1e3, theirs=times["alone"] * 1e3, unit="ms", must_reach=1.0,
                limit={"independent_jobs": limit}, of_limit=speedup / limit, turns=setting.turns,
            )  # fmt: skip


def work(part: str, setting: Setting) -> None:
    with tempfile.TemporaryDirectory() as folder:
        folders = [folder]
        dist.broadcast_object_list(folders, src=0)
        if part == "packed":
            measure_packed(setting)
        elif part == "mission":
            measure_mission(setting, Path(folders[0]))
        else:
            measure_scaling(setting)
        dist.barrier()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="shorter rows, fewer turns: about a minute")
    parser.add_argument("--parts", help="of packed, memory, mission, scaling")
    parser.add_argument("--tokens", default="8192")
    parser.add_argument("--dtypes", default="float32,bfloat16")
    parser.add_argument("--sides", default=",".join(SIDES), help="of the mission")
    parser.add_argument("--layers", type=int, help="of the model; 4 without, fewer for long rows")
    parser.add_argument("--receipts", type=Path, help="a folder for the receipts of the mission's sides")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--deepspeed-python", type=Path, help="a Python that has deepspeed; absent without")
    parser.add_argument("--ringmaster", type=Path, help="a folder that has axolotl-ringmaster; absent without")
    parser.add_argument("--state", type=Path, help="a file with the mission's turns so far, to which more are added")
    parser.add_argument("--peak", choices=("ours", "theirs"), help="only measure this side's peak, here")
    given = parser.parse_args()
    if given.device == "cuda":  # torchrun gives the ranks, without it there is one
        alone = "RANK" not in os.environ
        given.ranks = 1 if alone else int(os.environ["WORLD_SIZE"])
        given.parts = given.parts or ("packed,memory" if alone else "mission,scaling")
    if given.quick:
        given.tokens, given.dtypes, given.turns = "1024", "float32", 3
    torch.set_num_threads(1)
    sides = tuple(given.sides.split(","))
    peers = Peers(given.deepspeed_python, given.ringmaster, sides, given.receipts, given.state)
    SHAPE["num_hidden_layers"] = given.layers or SHAPE["num_hidden_layers"]  # ranks are forked with it
    for dtype in given.dtypes.split(","):
        for tokens in map(int, given.tokens.split(",")):
            setting = Setting(tokens, dtype, given.device, given.turns, peers)
            if given.peak:
                print(run_ranks(find_peak, 1, setting, given.peak, threads=1, setup=RankSetup(given.device))[0])
                continue
            for part in (given.parts or "packed,memory,mission,scaling").split(","):
                if part == "memory":
                    measure_memory(setting)
                else:
                    ranks = 1 if part == "packed" else given.ranks
                    run_ranks(work, ranks, part, setting, threads=1, setup=RankSetup(given.device))


if __name__ == "__main__":
    main()
