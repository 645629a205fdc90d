"""Part 9: the longest sequence of a 0.6B model that fits one GPU, by doubling, beside the plan's peak.

Documents are short, since their lengths decide the time of attention and not the memory of a sequence. Everything is
recomputed and the MLP runs in tiles; nothing is kept on the host.
"""

import gc

import torch

from gpu.target import Target, read_target, tell
from memory_sides import Case, make_step
from ropewalk.parallel.launch import run_ranks
from ropewalk.parallel.peak import measure_peak_bytes
from ropewalk.plan.memory import estimate_memory
from ropewalk.plan.rank_setup import RankSetup
from ropewalk.plan.savings import Savings

STATE_BYTES = 12


def try_tokens(target: Target, case: Case, savings: Savings) -> tuple[float, float] | None:
    """(peak bytes with states, seconds) of one step; None where the GPU's memory does not hold it."""
    try:
        with target.emulate():
            learner, step = make_step(case, savings, precision="bfloat16")
            seconds: list[float] = []
            peak = measure_peak_bytes(lambda: seconds.append(target.clock(step)), torch.device(case.device))
            return peak + STATE_BYTES * sum(weight.numel() for weight in learner.parameters()), seconds[0]
    except torch.OutOfMemoryError:
        return None


def measure(target: Target) -> None:
    tokens, most = target.pick((131_072, 1 << 22), (256, 1024), (128, 256))
    savings = Savings("full", target.pick(1024, 64, 64))
    fitted = None
    while tokens <= most:
        model, document = target.pick("0.6B", *["tiny, 2 layers"] * 2), target.pick(8192, 32, 32)
        case = Case(model, tokens, document, target.device, 1)
        planned = estimate_memory(
            case.shape, tokens, ranks=1, savings=savings, loss_chunk_tokens=target.pick(4096, 1024, 1024)
        ).peak_bytes
        found = try_tokens(target, case, savings)
        facts = {} if found is None else {"peak_gib": found[0] / 2**30, "seconds": found[1]}
        tell("length", model=model, tokens=tokens, fits=found is not None, planned_gib=planned / 2**30, **facts)
        if found is None:
            break
        fitted, tokens = tokens, 2 * tokens
        gc.collect()
        if not target.dry:
            torch.cuda.empty_cache()
    tell("longest", tokens=fitted, way=savings.describe(), stopped_at=tokens)
    assert fitted is not None, "not even the shortest length fits"


if __name__ == "__main__":
    target = read_target()
    run_ranks(measure, 1, target, setup=RankSetup(target.device))
