"""The speed and memory of a rank's device, as a value with its source: measured or published.

Rates are those that a training step sustains, not those of a data sheet. A CPU is measured by matrix products that take
well under a second. A GPU is recognised, without torch, by the name that its driver shows; one that is not in the table
gets generic rates (generic_gpu.py). The memory is the card's own. Ranks on one CPU share it, so each gets only its part
of the rate and of the memory.
"""

import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ropewalk.plan.generic_gpu import LINK_BYTES_PER_SECOND, estimate_rates
from ropewalk.plan.gpus import Gpu, list_gpus


@dataclass(frozen=True, slots=True)
class Machine:
    """One rank's device.

    Rates are in FLOP/s (attention counts the causal half only), links in bytes per second and direction.
    """

    name: str
    matmul_flops: float
    attention_forward_flops: float
    attention_backward_flops: float
    memory_bytes: float
    link_bytes_per_second: float
    source: str
    host_link_bytes_per_second: float = 50e9
    """Between the device and pinned host memory: PCIe 5 with 16 lanes, less its overhead."""
    memory_bytes_per_second: float = math.inf
    """Of the device's own memory; infinite where that is not known, and then elementwise work is not counted."""
    host_bytes: float = math.inf
    """The rank's part of its machine's memory; infinite where the machine is not known."""
    generic: bool = False
    """Whether the rates are only an estimate, because the device is not in the table."""


_TERA, _GIGA, _MEBI = 1e12, 1e9, 2**20

KNOWN: Mapping[str, Machine] = {
    "h200": Machine(
        name="h200",
        matmul_flops=0.8 * 790 * _TERA,
        attention_forward_flops=567 * _TERA,
        attention_backward_flops=485 * _TERA,
        memory_bytes=143_771 * _MEBI,
        link_bytes_per_second=400 * _GIGA,
        memory_bytes_per_second=0.9 * 4.8 * _TERA,
        source="bf16 8192^3 product measured at 769-798 TFLOP/s, of which a model gets about 0.8; attention: cuDNN on "
        "an H100 (same cores) at 32k in LongCA-bench",
    ),
    "h100": Machine(
        name="h100",
        matmul_flops=0.8 * 790 * _TERA,
        attention_forward_flops=567 * _TERA,
        attention_backward_flops=485 * _TERA,
        memory_bytes=81_559 * _MEBI,
        link_bytes_per_second=400 * _GIGA,
        memory_bytes_per_second=0.9 * 3.35 * _TERA,
        source="rates as h200, which has the same cores",
    ),
    "a100": Machine(
        name="a100",
        matmul_flops=0.8 * 312 * _TERA,
        attention_forward_flops=205 * _TERA,
        attention_backward_flops=182 * _TERA,
        memory_bytes=81_920 * _MEBI,
        link_bytes_per_second=250 * _GIGA,
        memory_bytes_per_second=0.9 * 2.04 * _TERA,
        host_link_bytes_per_second=25 * _GIGA,
        source="0.8 of the data sheet's 312 TFLOP/s; attention: FlashAttention 2 in ring-flash-attention's README",
    ),
}

DATASHEET_FLOPS: Mapping[str, float] = {"h200": 989 * _TERA, "h100": 989 * _TERA, "a100": 312 * _TERA}
"""Peak FLOP/s in bfloat16 without sparsity, by a part of the name that the driver shows.

MFU is a share of this peak.
"""

_PROBE_WIDTH, _PROBE_SECONDS = 1024, 0.2
_ATTENTION_SHARE = 0.65
"""Rate of torch's fp32 CPU flash kernel as a share of the matrix rate: 0.61 to 0.67 at 64 dimensions on a Xeon."""


def find_machine(*, ranks: int = 1, gpus: Sequence[Gpu] | None = None) -> Machine:
    """The device of one of ``ranks`` ranks here: the first of ``gpus``, or else the measured CPU.

    ``gpus`` None means those that the driver shows.
    """
    gpus = list_gpus() if gpus is None else gpus
    if not gpus:
        return measure_cpu(ranks=ranks)
    return replace(describe_gpu_rates(gpus[0]), host_bytes=count_host_bytes() / min(ranks, len(gpus)))


def describe_gpu_rates(gpu: Gpu) -> Machine:
    """The machine of ``gpu``: that of the table with the GPU's own memory, or one with generic rates."""
    known = next((machine for name, machine in KNOWN.items() if name in gpu.name.lower()), None)
    if known is not None:
        return replace(known, memory_bytes=gpu.memory_bytes or known.memory_bytes)
    matmul, forward, backward, memory_bytes, source = estimate_rates(gpu)
    rates = matmul, forward, backward, memory_bytes, LINK_BYTES_PER_SECOND
    return Machine(gpu.name, *rates, source, host_link_bytes_per_second=LINK_BYTES_PER_SECOND, generic=True)


def count_host_bytes() -> float:
    """The memory of this machine."""
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def measure_cpu(*, ranks: int = 1) -> Machine:
    """The part of this CPU for each of ``ranks`` ranks, measured in float32 by a product of 1024 x 1024 matrices."""
    left = np.ones((_PROBE_WIDTH, _PROBE_WIDTH), dtype=np.float32)
    best_seconds, spent = float("inf"), 0.0
    while spent < _PROBE_SECONDS:
        begun = time.perf_counter()
        left @ left
        elapsed = time.perf_counter() - begun
        best_seconds, spent = min(best_seconds, elapsed), spent + elapsed
    matmul = 2 * _PROBE_WIDTH**3 / best_seconds / ranks
    copied = np.empty_like(left)
    begun = time.perf_counter()
    np.copyto(copied, left)
    copy_seconds = time.perf_counter() - begun
    return Machine(
        name="cpu",
        matmul_flops=matmul,
        attention_forward_flops=_ATTENTION_SHARE * matmul,
        attention_backward_flops=_ATTENTION_SHARE * matmul,
        memory_bytes=count_host_bytes() / ranks,
        link_bytes_per_second=left.nbytes / copy_seconds / ranks,
        source=f"measured: a {_PROBE_WIDTH}^3 product in {best_seconds * 1e3:.1f} ms, shared by {ranks} ranks",
    )
