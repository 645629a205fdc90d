"""What compiling blocks gives: steps of one model with its blocks as they are and compiled, in turns in one process.

    python benchmarks/compiled.py [--quick] [--models 1M,25M] [--tokens 2048,4096] [--threads 1] [--turns 8]
    python benchmarks/compiled.py --device cuda --models 0.6B,1B --tokens 32768,131072

A row of documents of 1Ki (on a GPU of one document), whole steps, float32 on a CPU and bfloat16 on a GPU. ``--tokens``
is one length per model, or one for all. A side's speed is that of its fastest turn, and ``by_processor`` the ratio by
the processor's seconds, in which others on the machine do not count. ``compiling`` is what the first step took longer
than a later one, compilers included, with no cache of programs, and ``from_cache`` the same in a process that finds
them on disk. Peaks are of what tensors took. JSON lines.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from memory_sides import Case, make_step
from race import tell
from ropewalk.model.fusion import Fusion
from ropewalk.parallel.fsdp import Precision
from ropewalk.parallel.launch import run_ranks
from ropewalk.parallel.peak import measure_peak_bytes
from ropewalk.plan.rank_setup import RankSetup
from ropewalk.plan.savings import Savings

DOCUMENT_TOKENS = 1024
WAYS = {"nothing saved": Savings(), "all again, MLP in tiles": Savings("full", 1024)}
SIDES: dict[str, Fusion] = {"compiled": "compiled", "as they are": "none"}


def run(fields: dict[str, Any]) -> dict[str, Any]:
    """Of both sides the first step, and with ``turns`` the fastest turn and the peak; without, of the compiled one."""
    asked = Case(*fields["case"]), fields["way"], fields["precision"], fields["turns"]
    found: dict[str, Any] = run_ranks(_run, 1, *asked, threads=fields["threads"], setup=RankSetup(asked[0].device))[0]
    return found


def _run(case: Case, way: str, precision: Precision, turns: int) -> dict[str, Any]:
    sides = {
        name: make_step(case, WAYS[way], precision=precision, fusion=fusion)[1]
        for name, fusion in SIDES.items()
        if turns or fusion == "compiled"
    }
    first = {name: _clock(step, case.device) for name, step in sides.items()}
    if not turns:
        return first
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for _ in range(turns):
        for name, step in sides.items():
            seconds[name].append(_clock(step, case.device))
    return {
        name: {
            "seconds": min(wall for wall, _ in seconds[name]),
            "processor_seconds": min(used for _, used in seconds[name]),
            "first": first[name],
            "peak_bytes": measure_peak_bytes(step, torch.device(case.device)),
        }
        for name, step in sides.items()
    }


def _clock(step: Callable[[], None], device: str) -> tuple[float, float]:
    """Seconds by the clock and of the processor; compilers are processes of their own."""
    begun, used = time.perf_counter(), _used_seconds()
    step()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begun, _used_seconds() - used


def _used_seconds() -> float:
    times = [resource.getrusage(each) for each in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in times)


def measure(case: Case, way: str, **settings: Any) -> None:
    """One line: with an empty cache of programs, then once more in a process that finds it filled."""
    fields = {"case": list(case), "way": way, **settings}
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": folder}
        found, cached = _start(fields, environment), _start({**fields, "turns": 0}, environment)["compiled"]
    ours, theirs = (found[name] for name in SIDES)
    kinds = ("seconds", "processor_seconds")
    spent = {kind: each - ours[kind] for kind, each in zip(kinds, ours["first"], strict=True)}
    spent_again = {kind: each - ours[kind] for kind, each in zip(kinds, cached, strict=True)}
    tell(
        f"step of {case.model}, row of {case.tokens}, {way}, blocks compiled", "the same blocks as they are",
        ours=case.tokens / ours["seconds"], theirs=case.tokens / theirs["seconds"], unit="tokens/s", must_reach=None,
        by_processor=theirs["processor_seconds"] / ours["processor_seconds"], compiling=spent, from_cache=spent_again,
        peak_mib={name: found[name]["peak_bytes"] / 2**20 for name in SIDES}, **settings,
    )  # fmt: skip


def _start(fields: Mapping[str, Any], environment: Mapping[str, str]) -> dict[str, Any]:
    command = [sys.executable, __file__, "--run", json.dumps(fields)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the small model and a short row")
    parser.add_argument("--models", default="1M,25M")
    parser.add_argument("--tokens", default="2048,4096")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--turns", type=int, default=8)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), help="default: float32 on a CPU")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.run:
        print(json.dumps(run(json.loads(given.run))))
        return
    models = ["1M"] if given.quick else given.models.split(",")
    lengths = [512] if given.quick else [int(each) for each in given.tokens.split(",")]
    for model, tokens in zip(models, lengths * len(models) if len(lengths) == 1 else lengths, strict=False):
        documents = tokens if given.device == "cuda" else min(DOCUMENT_TOKENS, tokens)
        for way in ["nothing saved"] if given.quick else WAYS:
            case = Case(model, tokens, documents, given.device, 1)
            measure(case, way, threads=given.threads, turns=given.turns, precision=given.precision)


if __name__ == "__main__":
    main()
