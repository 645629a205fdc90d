"""Part 6: steps of models of 8B width with two and with four layers; what two more layers take is two layers' time.

One document and a pack; blocks as they are, compiled, and with Liger's kernels where installed; the peak beside the
plan's. One process runs all cases, so that the
GPU is started once; each is told as soon as it is measured.
"""

import gc
from dataclasses import dataclass
from importlib.util import find_spec

import torch

from gpu.target import Target, read_target, tell
from memory_sides import Case, make_step
from ropewalk.model.compiled import compiles_once
from ropewalk.model.fusion import Fusion
from ropewalk.parallel.launch import run_ranks
from ropewalk.parallel.peak import measure_peak_bytes
from ropewalk.plan.devices import find_peak_flops
from ropewalk.plan.flops import token_flops
from ropewalk.plan.memory import estimate_memory
from ropewalk.plan.rank_setup import RankSetup
from ropewalk.plan.savings import Savings

MEDIAN_TOKENS = 4096
SAVINGS = Savings("save_attention")
ON_HOST = Savings("save_attention", offload=True, attention_on_host=True)
LAYERS = (2, 4)
STATE_BYTES = 12
"""Of a parameter: its master and two moments, which stand before a step."""


@dataclass(frozen=True, slots=True)
class Found:
    """Of one model: seconds of the first and of the fastest later step, and the peak."""

    first_seconds: float
    seconds: float
    peak_bytes: float


def measure_model(target: Target, case: Case, *, fusion: Fusion, savings: Savings = SAVINGS) -> Found:
    """Steps of one model, and its peak with states."""
    with target.emulate("cudnn" if case.median_tokens is None else "flash"):
        learner, step = make_step(case, savings, precision="bfloat16", fusion=fusion)
        states = STATE_BYTES * sum(weight.numel() for weight in learner.parameters())
        first = target.clock(step)
        seconds = [target.clock(step) for _ in range(case.steps)]
        peak = states + measure_peak_bytes(step, torch.device(case.device))
    return Found(first, min(seconds), peak)


def compare_depths(target: Target, tokens: int, median_tokens: int | None, *, fusion: Fusion) -> None:
    """Both depths of one row; their difference is told as one layer's time."""
    found = {}
    model = target.pick("8B width", "tiny", "tiny")
    for layers in LAYERS:
        case = Case(f"{model}, {layers} layers", tokens, tokens, target.device, 1, median_tokens)
        found[layers] = mine = measure_model(target, case, fusion=fusion)
        planned = estimate_memory(
            case.shape, tokens, ranks=1, savings=SAVINGS, loss_chunk_tokens=target.pick(4096, 1024, 1024)
        ).peak_bytes
        tell(
            "step", model=case.model, tokens=tokens, documents=name_documents(median_tokens),
            fusion=fusion, seconds=mine.seconds, first_seconds=mine.first_seconds, peak_gib=mine.peak_bytes / 2**30,
            planned_gib=planned / 2**30, planned_over_found=planned / mine.peak_bytes,
        )  # fmt: skip
        clean_up(target)
    layer_seconds = (found[LAYERS[1]].seconds - found[LAYERS[0]].seconds) / (LAYERS[1] - LAYERS[0])
    tell(
        "one layer", tokens=tokens, documents=name_documents(median_tokens), fusion=fusion,
        milliseconds=layer_seconds * 1e3, mfu=None if median_tokens else find_mfu(target, tokens, layer_seconds),
    )  # fmt: skip


def compare_offload(target: Target, tokens: int) -> None:
    """What activations in host memory cost and save: the same model with them on the card and on the host."""
    model = target.pick("8B width", "tiny", "tiny")
    case = Case(f"{model}, {LAYERS[1]} layers", tokens, tokens, target.device, 1, None)
    found = {}
    for name, savings in (("card", SAVINGS), ("host", ON_HOST)):
        found[name] = measure_model(target, case, fusion="none", savings=savings)
        clean_up(target)
    tell(
        "offload", tokens=tokens, layers=LAYERS[1], longer=found["host"].seconds / found["card"].seconds - 1,
        saved_gib=(found["card"].peak_bytes - found["host"].peak_bytes) / 2**30,
    )  # fmt: skip


def name_documents(median_tokens: int | None) -> str:
    """The word for a row's documents."""
    return "one" if median_tokens is None else "pack"


def clean_up(target: Target) -> None:
    """Free what a model left: its memory, and compiled code, which must not count against the next model's."""
    torch.compiler.reset()
    gc.collect()
    if not target.dry:
        torch.cuda.empty_cache()


def find_mfu(target: Target, tokens: int, layer_seconds: float) -> float | None:
    """Of a layer on one document: its FLOPs, without those of recomputation, of the data sheet's; None in a dry run."""
    if target.dry:
        return None
    promised = find_peak_flops(torch.cuda.get_device_name())
    if not promised or layer_seconds <= 0:
        return None
    shapes = [Case(f"8B width, {layers} layers", tokens, tokens, "cuda", 1).shape for layers in LAYERS]
    two = [tokens * token_flops(shape, tokens).model for shape in shapes]
    return (two[1] - two[0]) / (LAYERS[1] - LAYERS[0]) / layer_seconds / promised


def measure(target: Target) -> None:
    lengths = target.pick((131_072, 32_768), (512, 256), (128,))  # what is asked for most comes first
    rows = [(tokens, median) for tokens in lengths for median in (None, target.pick(MEDIAN_TOKENS, 32, 32))]
    fusions: list[Fusion] = ["none", "compiled"] if compiles_once() else ["none"]
    if not compiles_once():
        tell("compiled blocks are left out", torch=torch.__version__, why="it builds a new program for each pack")
    if find_spec("liger_kernel") is not None and not target.dry:
        fusions.append("liger")
    cases = [(*row, fusion) for fusion in fusions for row in rows]
    if target.tiny:  # a compiler takes half a minute on a CPU
        cases = [case for case in cases if case[2] == "none"]
    for tokens, median, fusion in cases:
        try:
            compare_depths(target, tokens, median, fusion=fusion)
        except torch.OutOfMemoryError as error:
            tell("out of memory", tokens=tokens, documents=name_documents(median), fusion=fusion, why=str(error))
            clean_up(target)
    compare_offload(target, lengths[-1])


if __name__ == "__main__":
    target = read_target()
    run_ranks(measure, 1, target, setup=RankSetup(target.device))
