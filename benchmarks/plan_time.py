"""The plan's seconds of a step beside those of the clock, over a grid of small models, by this machine's own rates.

    python benchmarks/plan_time.py [--out FILE]     # some minutes; only a quiet machine gives times that mean something

The machine is calibrated first, as ``ropewalk check --calibrate`` does, for each number of ranks. A step is forward,
backward and AdamW; the first warms up, and the median of the others counts, of the rank that takes longest. Processor
time stands beside the clock: where they differ, other programs had the processors.
"""

import argparse
import json
import os
from pathlib import Path
from statistics import median
from typing import NamedTuple

from plan_memory import CHUNK_TOKENS, Case, make_step
from race import clock_both
from ropewalk.commands.calibrate import calibrate_on_rank
from ropewalk.parallel.launch import run_ranks
from ropewalk.plan.calibration import describe_calibrated
from ropewalk.plan.forecast import forecast
from ropewalk.plan.plan import Split
from ropewalk.plan.step_time import Software

STEPS = 5
ALLOWED = 0.2
CASES = [
    Case("llama", 2, 2048, 2048, 1, 1, "none", None, "float32", 4),
    Case("llama", 2, 4096, 4096, 1, 1, "none", None, "bfloat16", 4),
    Case("llama", 4, 4096, 512, 1, 1, "save_attention", None, "float32", 4),
    Case("llama", 2, 4096, 4096, 1, 1, "full", 512, "float32", 4),
    Case("qwen3", 2, 4096, 1024, 1, 1, "none", None, "bfloat16", 4),
    Case("qwen3", 2, 8192, 8192, 1, 1, "full", None, "float32", 2),
    Case("llama", 2, 8192, 8192, 2, 2, "none", None, "float32", 2),
    Case("llama", 2, 8192, 1024, 2, 2, "none", None, "bfloat16", 4),
    Case("llama", 4, 4096, 4096, 2, 1, "none", None, "float32", 4),
    Case("llama", 2, 8192, 2048, 2, 2, "save_attention", None, "float32", 4),
    Case("qwen3", 2, 4096, 512, 2, 1, "full", 512, "bfloat16", 4),
    Case("qwen3", 2, 8192, 8192, 2, 2, "full", None, "bfloat16", 4),
]


class Found(NamedTuple):
    clock: float
    processor: float


def measure_steps(case: Case) -> Found:
    """Median seconds of the steps after the first; every rank must call it."""
    step, *_ = make_step(case)
    seconds = [clock_both(step) for _ in range(STEPS + 1)][1:]
    return Found(*(median(each) for each in zip(*seconds, strict=True)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="a file for the figures")
    out = parser.parse_args().out
    rates = {ranks: run_ranks(calibrate_on_rank, ranks, ranks, 8, 4, 32, threads=1)[0] for ranks in (1, 2)}
    for each in rates.values():
        print(each.describe())
    print("| model, ranks | savings, precision | tokens, documents | clock, s | processor, s | planned, s | error |")
    print("|---|---|---|---|---|---|---|---|")
    rows = []
    for case in CASES:

        def on_rank(case: Case = case) -> Found:
            return measure_steps(case)

        found = max(run_ranks(on_rank, case.ranks, threads=1))
        sequences = case.ranks // case.context_ranks
        split = Split(
            context_ranks=case.context_ranks, savings=(case.savings,), loss_chunk_tokens=CHUNK_TOKENS,
            element_bytes={"float32": 4, "bfloat16": 2}[case.precision], software=Software(fused=False),
        )  # fmt: skip
        plan = forecast(
            case.shape, context_tokens=case.tokens, tokens=sequences * case.tokens, ranks=case.ranks, split=split,
            document_tokens=[case.document_tokens] * (case.tokens // case.document_tokens),
            machine=describe_calibrated(rates[case.ranks], ranks=case.ranks),
        )  # fmt: skip
        error = plan.step_seconds / found.clock - 1
        names = f"{case.family}, {case.ranks}" + (f", context {case.context_ranks}" if case.ranks > 1 else "")
        rows.append({
            "case": case._asdict(), **found._asdict(), "planned": plan.step_seconds, "error": error,
            "load": os.getloadavg()[0],
        })  # fmt: skip
        print(
            f"| {names} | {case.savings.describe()}, {case.precision} | {case.tokens}, {case.document_tokens} "
            f"| {found.clock:.2f} | {found.processor:.2f} | {plan.step_seconds:.2f} | {error:+.0%} |", flush=True,
        )  # fmt: skip
    within = sum(abs(row["error"]) <= ALLOWED for row in rows)
    print(f"{within} of {len(rows)} within {ALLOWED:.0%}")
    if out:
        out.write_text(json.dumps({"rates": {r: each.digest for r, each in rates.items()}, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
