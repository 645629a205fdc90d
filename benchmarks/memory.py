"""Length in little memory: peak bytes and tokens per second against the row's length, and what each piece of it gives.

    python benchmarks/memory.py [--quick] [--tokens 16384,8192,4096] [--document-tokens 4096] [--threads 2]
    python benchmarks/memory.py --device cuda [--models 0.6B,1B] [--tokens 32768,131072,1048576]

On a CPU: a Llama of 25M parameters with 32,000 tokens, float32, one step on rows of documents of 4Ki, beside
transformers' Trainer as it comes on the same weights and row, each in a process of its own. Peaks are the allocator's
(torch's profiler reports every allocation), states included. The longest row in 16 GiB is extrapolated from them: our
bytes are a line in the row's length, the Trainer's a parabola, because its mask has that length squared. Where the
Trainer runs out of memory that is told, and its parabola goes through the shorter rows.

On a GPU: rows of one document, bfloat16, the fastest way that fits by the plan's formulas, causal-true MFU of the
card's datasheet. A side that runs out of memory says so. Prints JSON lines.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from memory_sides import SHAPES, Case, Found, run_ours, run_trainer
from race import tell
from ropewalk.plan.devices import find_peak_flops
from ropewalk.plan.fit import find_fit
from ropewalk.plan.flops import token_flops, utilisation
from ropewalk.plan.gpus import list_gpus
from ropewalk.plan.hardware import find_machine
from ropewalk.plan.memory import estimate_memory
from ropewalk.plan.plan import Split
from ropewalk.plan.savings import Savings, list_savings
from ropewalk.plan.workload import describe_workload
from ropewalk.recipe.spec import Parallel

DOCUMENT_TOKENS, DECISIVE_TOKENS, LIMIT_BYTES = 4096, 16384, 16 * 2**30
WAYS = {
    "nothing saved": Savings(),
    "MLP in tiles": Savings("none", 1024),
    "all but attention again": Savings("save_attention"),
    "all but attention again, MLP in tiles": Savings("save_attention", 1024),
    "all again": Savings("full"),
    "all again, MLP in tiles": Savings("full", 1024),
}
FASTEST, LEANEST = "nothing saved", "all again, MLP in tiles"
PEER = "transformers' Trainer, its defaults"


def measure(case: Case, side: str, threads: int) -> Found | None:
    """What a side finds in a process of its own; None where it ran out of memory."""
    fields = json.dumps({"case": list(case), "side": side, "threads": threads})
    done = subprocess.run([sys.executable, __file__, "--run", fields], capture_output=True, text=True, check=False)
    if done.returncode and ("out of memory" in done.stderr or done.returncode < 0):
        return None
    assert done.returncode == 0, done.stderr[-3000:]
    return Found(*json.loads(done.stdout.splitlines()[-1]))


def run(fields: dict[str, Any]) -> Found:
    """The other end of ``measure``."""
    case = Case(*fields["case"])
    torch.set_num_threads(fields["threads"])
    if fields["side"] == "trainer":
        return run_trainer(case)
    savings = WAYS[fields["side"]] if fields["side"] in WAYS else Savings(**json.loads(fields["side"]))
    return run_ours(case, savings, threads=fields["threads"])


def find_longest(peaks: Mapping[int, float], *, degree: int) -> int:
    """The row whose peak is the limit, by a polynomial through the measured ones."""
    curve = np.polyfit(list(peaks), list(peaks.values()), degree)
    curve[-1] -= LIMIT_BYTES
    return int(max(root.real for root in np.roots(curve) if abs(root.imag) < 1))


def measure_cpu(lengths: list[int], document_tokens: int, threads: int) -> None:
    """All ways at the shortest length, the ends of the list at all; then the longest rows."""
    peaks: dict[str, dict[int, float]] = {"trainer": {}, **{name: {} for name in WAYS}}
    for tokens in lengths:
        case = Case("25M", tokens, min(document_tokens, tokens), "cpu", 1)
        theirs = measure(case, "trainer", threads)
        if theirs is not None:
            peaks["trainer"][tokens] = theirs.peak_bytes
        decides = (tokens, document_tokens) == (DECISIVE_TOKENS, DOCUMENT_TOKENS)
        for name in WAYS if tokens == min(lengths) else (FASTEST, LEANEST):
            ours = measure(case, name, threads)
            assert ours is not None
            peaks[name][tokens] = ours.peak_bytes
            planned = estimate_memory(case.shape, tokens, ranks=1, savings=WAYS[name], element_bytes=4).peak_bytes
            peer = PEER if theirs is not None else f"{PEER}: out of this machine's memory"
            tell(
                f"peak, rows of {tokens}, {name}", peer, ours=ours.peak_bytes / 2**20,
                theirs=None if theirs is None else theirs.peak_bytes / 2**20,
                unit="MiB", must_reach=4.0 if decides and name == LEANEST else None,
                planned=planned / 2**20, planned_over_found=planned / ours.peak_bytes,
            )  # fmt: skip
            tell(
                f"step, rows of {tokens}, {name}", peer, ours=tokens / ours.seconds,
                theirs=None if theirs is None else tokens / theirs.seconds,
                unit="tokens/s", must_reach=3.0 if decides and name in (FASTEST, LEANEST) else None,
            )  # fmt: skip
    if len(peaks["trainer"]) < 3:
        return
    for name in (FASTEST, LEANEST):
        tell(
            f"longest row in 16 GiB, extrapolated, {name}", PEER, ours=find_longest(peaks[name], degree=1),
            theirs=find_longest(peaks["trainer"], degree=2), unit="tokens",
            must_reach=8.0 if name == LEANEST else None,
        )  # fmt: skip


def measure_gpu(models: list[str], lengths: list[int], steps: int) -> None:
    """The fastest way that fits by the plan, beside the Trainer; MFU of the card's datasheet, or 0 if it is unknown."""
    machine, peak_flops = find_machine(), find_peak_flops(list_gpus()[0].name)
    for model in models:
        for tokens in lengths:
            case = Case(model, tokens, tokens, "cuda", steps)
            ways = tuple(list_savings(Parallel(), SHAPES[model], host_is_apart=True))
            load = describe_workload(case.shape, tokens, sequences=1)
            way, _ = find_fit(load, ranks=1, split=Split(savings=ways), machine=machine)
            side = json.dumps({name: getattr(way, name) for name in Savings.__dataclass_fields__})
            found = [measure(case, each, 16) for each in (side, "trainer")]
            speeds = [each and tokens / each.seconds for each in found]
            flops = token_flops(case.shape, tokens)
            mfu = [
                speed and peak_flops and utilisation(flops, tokens_per_second=speed, peak_flops=peak_flops)
                for speed in speeds
            ]
            tell(
                f"step of {model}, one document of {tokens}, {way.describe()}", PEER, ours=speeds[0], theirs=speeds[1],
                unit="tokens/s", must_reach=1.5, mfu=mfu, peak_gib=[each and each.peak_bytes / 2**30 for each in found],
                machine=machine.name,
            )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="short rows: minutes")
    parser.add_argument("--tokens", help="row lengths; three or more give the longest row too")
    parser.add_argument("--document-tokens", type=int, default=DOCUMENT_TOKENS)
    parser.add_argument("--models", default="0.6B,1B")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=3, help="timed steps on a GPU")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.run:
        print(json.dumps(list(run(json.loads(given.run)))))
        return
    default = {"cpu": "16384,8192,4096", "cuda": "32768,131072,1048576"}[given.device]
    lengths = [int(each) for each in (given.tokens or ("512,1024,2048" if given.quick else default)).split(",")]
    if given.device == "cuda":
        measure_gpu(given.models.split(","), lengths, given.steps)
    else:
        measure_cpu(lengths, given.document_tokens, given.threads)


if __name__ == "__main__":
    main()
