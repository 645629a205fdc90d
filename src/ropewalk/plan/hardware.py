"""The speed and memory of a rank's device, as a value with its source: measured or published.

Rates are those that a training step sustains, not those of a data sheet. A CPU is measured by matrix products that take
well under a second. A GPU is recognised in the table (devices.py), without torch, by the name that its driver shows;
another one gets generic rates (generic_gpu.py). The memory is the card's own. Ranks on one CPU share it, so each gets
only its part of the rate and of the memory.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from ropewalk.core.quantity import format_count
from ropewalk.plan.devices import (
    ATTENTION_SHARES,
    MATMUL_SHARES,
    Device,
    Family,
    Generation,
    read_devices,
    recognise_device,
)
from ropewalk.plan.generic_gpu import LINK_BYTES_PER_SECOND, estimate_rates
from ropewalk.plan.gpus import Gpu, list_gpus
from ropewalk.plan.host_memory import count_host_bytes

HOST_PARAMETERS_PER_SECOND = 2.35e9
"""Where nobody measured it: the geometric mean of three sources' nodes, which differ by a factor of three
(benchmarks/plan_published.py)."""


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
    host_parameters_per_second: float = HOST_PARAMETERS_PER_SECOND
    """Parameters that the processors of a node update, where the optimizer is on the host."""
    memory_bytes_per_second: float = math.inf
    """Of the device's own memory; infinite where that is not known, and then elementwise work is not counted."""
    host_bytes: float = math.inf
    """The rank's part of its machine's memory; infinite where the machine is not known."""
    float32_share: float = 1.0
    """Rate of products of float32 inputs as a share of that of the machine's usual precision."""
    float32_attention_share: float | None = None
    """The same for attention; None is that of products."""
    node_ranks: int | None = None
    """Devices of one node; None where all ranks are on one."""
    network_bytes_per_second: float = math.inf
    """Of one device, to the devices of other nodes."""
    dollars_per_hour: float | None = None
    generation: Generation | None = None
    """None is a CPU, or a device that is not in the table."""
    generic: bool = False
    """Whether the rates are only an estimate, because the device is not in the table."""


_TERA, _GIGA, _MEBI = 1e12, 1e9, 2**20


def make_machine(device: Device, family: Family | None = None) -> Machine:
    """The machine of one rank on ``device``: what a step sustains, with attention in the kernels of ``family``.

    None takes the kernels that ropewalk calls there.
    """
    peak, families = device.bf16_tflops * _TERA, ATTENTION_SHARES[device.generation]
    forward, backward = families[next(iter(families)) if family is None else family]
    return Machine(
        name=device.name,
        matmul_flops=MATMUL_SHARES[device.generation] * peak,
        attention_forward_flops=forward * peak,
        attention_backward_flops=backward * peak,
        memory_bytes=device.memory_mib * _MEBI,
        link_bytes_per_second=device.link_gb_per_second * _GIGA,
        source=device.source,
        host_link_bytes_per_second=device.host_link_gb_per_second * _GIGA,
        memory_bytes_per_second=_REACHED * device.memory_gb_per_second * _GIGA,
        host_bytes=device.host_gb * _GIGA / device.node_devices,
        float32_share=device.float32_tflops * _TERA / peak,
        node_ranks=device.node_devices,
        network_bytes_per_second=device.network_gb_per_second * _GIGA,
        dollars_per_hour=device.dollars_per_hour,
        generation=device.generation,
    )


_REACHED = 0.9
"""Of the data sheet's memory rate, in a kernel that only moves."""

KNOWN: Mapping[str, Machine] = {device.name: make_machine(device) for device in read_devices()}
"""The machine of every device of the table."""

_PROBE_WIDTH, _PROBE_SECONDS, _COPIES = 1024, 0.2, 3
_ATTENTION_SHARE = 0.65
"""Rate of torch's fp32 CPU flash kernel as a share of the matrix rate, on a document of 2,048 tokens as all such rates
(cpu_attention.py): on an EPYC 0.64 to 0.65 at 64 dimensions and 0.69 at 128, by processor time."""


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
    device = recognise_device(gpu.name)
    if device is not None:
        known = KNOWN[device.name]
        return replace(known, memory_bytes=gpu.memory_bytes or known.memory_bytes)
    matmul, forward, backward, memory_bytes, source = estimate_rates(gpu)
    rates = matmul, forward, backward, memory_bytes, LINK_BYTES_PER_SECOND
    return Machine(gpu.name, *rates, source, host_link_bytes_per_second=LINK_BYTES_PER_SECOND, generic=True)


def measure_cpu(*, ranks: int = 1) -> Machine:
    """The part of this CPU for each of ``ranks`` ranks, measured in float32 by a product of 1024 x 1024 matrices.

    A process measures once: forked ranks have their parent's figures, of a CPU that they did not yet share.
    """
    seconds = _time_product()
    source = f"measured: a {_PROBE_WIDTH}^3 product in {seconds * 1e3:.1f} ms, shared by {format_count(ranks, 'rank')}"
    return describe_cpu(2 * _PROBE_WIDTH**3 / seconds / ranks, ranks=ranks, source=source)


def describe_cpu(matmul_flops: float, *, ranks: int, source: str) -> Machine:
    """The part of this CPU for each of ``ranks`` ranks, of which one multiplies at ``matmul_flops`` FLOP/s.

    The rate of its memory is that of the fastest of a few copies.
    """
    copied_bytes, seconds = _time_copy()
    return Machine(
        name="cpu",
        matmul_flops=matmul_flops,
        attention_forward_flops=_ATTENTION_SHARE * matmul_flops,
        attention_backward_flops=_ATTENTION_SHARE * matmul_flops,
        memory_bytes=count_host_bytes() / ranks,
        link_bytes_per_second=copied_bytes / seconds / ranks,
        memory_bytes_per_second=2 * copied_bytes / seconds / ranks,
        source=source,
    )


@cache
def _time_product() -> float:
    """Seconds of the fastest product."""
    left = np.ones((_PROBE_WIDTH, _PROBE_WIDTH), dtype=np.float32)
    best_seconds, spent = math.inf, 0.0
    while spent < _PROBE_SECONDS:
        begun = time.perf_counter()
        left @ left
        elapsed = time.perf_counter() - begun
        best_seconds, spent = min(best_seconds, elapsed), spent + elapsed
    return best_seconds


@cache
def _time_copy() -> tuple[int, float]:
    """The bytes of the fastest copy, and its seconds."""
    held, copied = np.ones((2, _PROBE_WIDTH, _PROBE_WIDTH), dtype=np.float32)
    seconds = math.inf
    for _ in range(_COPIES):
        begun = time.perf_counter()
        np.copyto(copied, held)
        seconds = min(seconds, time.perf_counter() - begun)
    return held.nbytes, seconds
