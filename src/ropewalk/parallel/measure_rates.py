"""Measure what the ranks reach at the start of a stage: products, attention, the link between ranks, and the energy.

All ranks compute at the same time, because ranks on one CPU share it; so each rank takes all probes in the same order,
whatever its device. The rates are for MFU, for the plan of a running stage, and for a receipt, which says what share of
a step they explain.
"""

import ctypes
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from ropewalk.attention.context_parallel import attend
from ropewalk.parallel.collective import sum_over_ranks, wait_for_ranks
from ropewalk.parallel.mesh import Mesh
from ropewalk.partition.partition import partition_tokens
from ropewalk.plan.cpu_attention import count_measured
from ropewalk.plan.devices import find_peak_flops
from ropewalk.plan.receipt import Rig

Clock = Callable[[], float]
Pick = Callable[[list[float]], float]

_WIDTHS = {"cpu": 512, "cuda": 8192}
_GPU_TOKENS = 8192
"""Of attention's document on a GPU."""
_PRODUCTS = 8
_TRIES = 3
_LINK_BYTES = {"cpu": 1 << 20, "cuda": 1 << 26}
_PASSES = 4 * (1 + 2.5)  # FLOPs per pair and unit of head width: two products, forward and backward
_POWERCAP = Path("/sys/class/powercap")
_NVML = "libnvidia-ml.so.1"


def measure_rig(
    mesh: Mesh, precision: str, *, heads: int, kv_heads: int, head_dim: int, context_tokens: int | None = None
) -> Rig:
    """Return what computes, with rates that are measured now, for attention of these heads. Every rank must call it.

    ``context_tokens`` is the length of the sequences, which attention is measured on within bounds; None: the longest.
    The peak is that of the data sheet, or for a device that is not in the table the measured rate of products.
    """
    name = name_hardware(mesh.device)
    products = measure_products(precision, mesh.device)
    known = find_peak_flops(name) if mesh.device.type == "cuda" else 0.0
    peak, measured = sum_over_ranks(torch.tensor([known or products, not known], dtype=torch.float64)).tolist()
    return Rig(
        device=name,
        kind="cuda" if mesh.device.type == "cuda" else "cpu",
        ranks=mesh.ranks,
        context_ranks=mesh.context_ranks,
        peak_flops=peak,
        peak_source="measured" if measured else "by data sheet",
        products_flops=products,
        attention_flops=measure_attention(
            precision, mesh.device, heads=heads, kv_heads=kv_heads, head_dim=head_dim, context_tokens=context_tokens
        ),
        link_bytes_per_second=measure_link(mesh),
        power_watts=EnergyMeter(mesh.device, first=mesh.rank == 0).power_watts,
    )


def measure_products(
    precision: str, device: torch.device, *, clock: Clock = time.perf_counter, tries: int = _PRODUCTS
) -> float:
    """Return the FLOP/s of the fastest of ``tries`` products of square matrices. Every rank must call it."""
    width = _WIDTHS[device.type]
    left = torch.ones(width, width, dtype=getattr(torch, precision), device=device)

    def run() -> None:
        (left @ left)[0, 0].item()

    return 2 * width**3 / min(time_tries(run, tries=tries, clock=clock))


def measure_attention(
    precision: str,
    device: torch.device,
    *,
    heads: int,
    kv_heads: int,
    head_dim: int,
    context_tokens: int | None = None,
    clock: Clock = time.perf_counter,
    tries: int = _TRIES,
) -> float:
    """Return the FLOP/s of attention on one document, forward and backward, causal pairs only.

    On a CPU with one key head for each thread: all key heads take the same time, and threads without a head would wait
    in the backward. Every rank must call it.
    """
    tokens = _GPU_TOKENS
    if device.type == "cpu":
        tokens = count_measured(context_tokens)
        measured = min(kv_heads, torch.get_num_threads())
        heads, kv_heads = heads // kv_heads * measured, measured
    partition = partition_tokens(np.zeros((1, tokens), dtype=np.int32), ranks=1)
    drawn = [
        torch.ones(tokens, each, head_dim, dtype=getattr(torch, precision)) for each in (heads, kv_heads, kv_heads)
    ]
    leaves = [each.to(device).requires_grad_() for each in drawn]

    def run() -> None:
        attend(*leaves, partition=partition, group=None).float().sum().backward()
        assert leaves[0].grad is not None
        leaves[0].grad[0, 0, 0].item()  # the host waits for a GPU here

    return _PASSES * float(partition.pairs.sum()) * heads * head_dim / min(time_tries(run, tries=tries, clock=clock))


def measure_link(
    mesh: Mesh, *, size: int | None = None, clock: Clock = time.perf_counter, tries: int = _TRIES, pick: Pick = min
) -> float | None:
    """Return the bytes per second that each rank sends while all do, in an all-to-all; None with one rank.

    ``size`` is the message's, in bytes; ``pick`` chooses among the tries' seconds. Every rank must call it.
    """
    if mesh.ranks == 1:
        return None
    size = (size or _LINK_BYTES[mesh.device.type]) // mesh.ranks * mesh.ranks
    sent = torch.zeros(size, dtype=torch.uint8, device=mesh.device)
    received = torch.empty_like(sent)

    def run() -> None:
        dist.all_to_all_single(received, sent)
        received[0].item()

    return sent.numel() * (mesh.ranks - 1) / mesh.ranks / pick(time_tries(run, tries=tries, clock=clock))


def time_tries(run: Callable[[], Any], *, tries: int, clock: Clock = time.perf_counter) -> list[float]:
    """Seconds by ``clock`` of each of ``tries`` runs; all ranks begin together."""
    wait_for_ranks()
    seconds = []
    for _ in range(tries):
        begun = clock()
        run()
        seconds.append(clock() - begun)
    return seconds


def name_hardware(device: torch.device) -> str:
    """The name of the GPU, or of the processor's model."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.is_file() else []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor() or platform.machine())


class EnergyMeter:
    """Joules that this rank's GPU, or on the first rank of a CPU the whole machine's processors, have used."""

    def __init__(self, device: torch.device, *, first: bool, powercap: Path = _POWERCAP) -> None:
        self._counters = sorted(powercap.glob("intel-rapl:?/energy_uj")) if device.type == "cpu" and first else []
        self._nvml: Any
        self._handle: Any
        self._nvml, self._handle = _open_gpu(device) if device.type == "cuda" else (None, None)
        self._before = self._read()

    @property
    def power_watts(self) -> float | None:
        """The limit that the driver enforces for the GPU; None for a CPU."""
        watts = ctypes.c_uint()
        if self._nvml is None or self._nvml.nvmlDeviceGetEnforcedPowerLimit(self._handle, ctypes.byref(watts)):
            return None
        return watts.value / 1e3

    def take(self) -> float:
        """Joules since the last call; NaN where nothing counts them."""
        before, self._before = self._before, self._read()
        return self._before - before if self._before >= before else float("nan")  # a counter may begin again

    def _read(self) -> float:
        if self._nvml is not None:
            joules = ctypes.c_ulonglong()
            refused = self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle, ctypes.byref(joules))
            return float("nan") if refused else joules.value / 1e3
        try:
            return sum(int(path.read_text()) for path in self._counters) / 1e6 if self._counters else float("nan")
        except OSError:  # most systems let only root read them
            return float("nan")


def _open_gpu(device: torch.device) -> tuple[Any, Any]:
    """The driver's library and its handle of ``device``, which it knows by the GPU's UUID; None where it refuses."""
    try:
        nvml = ctypes.CDLL(_NVML)
    except OSError:
        return None, None
    handle, uuid = ctypes.c_void_p(), f"GPU-{torch.cuda.get_device_properties(device).uuid}"
    refused = nvml.nvmlInit_v2() or nvml.nvmlDeviceGetHandleByUUID(uuid.encode(), ctypes.byref(handle))
    return (None, None) if refused else (nvml, handle)
