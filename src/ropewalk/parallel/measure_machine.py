"""Measures a machine for its plans: per precision products and attention, and copies, the link between ranks, the host.

All ranks measure at once. Each rate is measured several times in turn, not in a row, so that a program beside it does
not slow all calls of one rate. A call takes the fastest of several tries of compute, and the median of those that move
bytes, whose fastest try is a lucky one in a cache. On a CPU all rates are by processor time, the link's too: what it
costs there is copies by this process' threads, and by the clock it would be the time until the other rank gets a
processor, which on a busy machine is several times as long.
"""

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch

from ropewalk.parallel.collective import rank_and_ranks
from ropewalk.parallel.device import find_own_machine
from ropewalk.parallel.measure_rates import (
    Clock,
    measure_attention,
    measure_link,
    measure_products,
    name_hardware,
    time_tries,
)
from ropewalk.parallel.mesh import make_mesh
from ropewalk.plan.calibration import HOST_OPTIMIZER, Calibration, Rate

CALLS = 8
_COPY_BYTES = {"cpu": 1 << 26, "cuda": 1 << 30}
_LINK_BYTES = 1 << 26
_HOST_PARAMETERS = 1 << 24  # with AdamW's states 256 MiB: more than a cache holds
_TRIES = {"products": 16, "attention": 5, "copy": 16, "link": 12, "host optimizer": 3}
_PRECISIONS = ("float32", "bfloat16")


def calibrate_rank(ranks: int, heads: int, kv_heads: int, head_dim: int) -> Calibration:
    """Measure this rank's rates, for attention of these heads. Every rank must call it."""
    mesh = make_mesh(ranks, 1)
    device = mesh.device
    on_cpu = device.type == "cpu"
    clock = _read_processor if on_cpu else time.perf_counter
    shape = {"heads": heads, "kv_heads": kv_heads, "head_dim": head_dim}
    probes: dict[str, Callable[[], float | None]] = {}
    for precision in _PRECISIONS:
        probes[f"products {precision}"] = lambda each=precision: measure_products(  # type: ignore[misc]
            each, device, clock=clock, tries=_TRIES["products"]
        )
        probes[f"attention {precision}"] = lambda each=precision: measure_attention(  # type: ignore[misc]
            each, device, clock=clock, tries=_TRIES["attention"], **shape
        )
    probes["copy"] = lambda: _measure_copy(device, device, clock)
    if device.type == "cuda":
        probes["host"] = lambda: _measure_copy(torch.device("cpu"), device, clock)
        probes[HOST_OPTIMIZER] = lambda: measure_host_optimizer(clock)
    if ranks > 1:
        link_clock = time.process_time if on_cpu else time.perf_counter
        probes["link"] = lambda: measure_link(
            mesh, size=_LINK_BYTES, clock=link_clock, tries=_TRIES["link"], pick=median
        )
    found: dict[str, list[float]] = {name: [] for name in probes}
    for call in range(CALLS + 1):
        for name, probe in probes.items():
            value = probe()
            if call and value is not None:  # the first call warms up
                found[name].append(value)
    machine = find_own_machine(ranks=rank_and_ranks()[1])
    return Calibration(
        device=name_hardware(device),
        kind=device.type,
        ranks=ranks,
        memory_bytes=machine.memory_bytes,
        host_bytes=machine.host_bytes if device.type == "cuda" else machine.memory_bytes,
        rates={name: Rate.of(values) for name, values in found.items()},
    )


def _read_processor() -> float:
    """Seconds of this process' threads, as if they ran side by side."""
    return time.process_time() / torch.get_num_threads()


def _measure_copy(source: torch.device, target: torch.device, clock: Clock) -> float:
    """Bytes a second that are read and written, of a device's own memory, or those that cross from the host."""
    size = _COPY_BYTES[target.type]
    held = torch.ones(size, dtype=torch.uint8, device=source, pin_memory=source != target)
    copied = torch.empty(size, dtype=torch.uint8, device=target)

    def run() -> Any:
        copied.copy_(held)
        copied[0].item()

    return (2 if source == target else 1) * size / median(time_tries(run, tries=_TRIES["copy"], clock=clock))


def measure_host_optimizer(clock: Clock = time.perf_counter) -> float:
    """Parameters a second that this rank's threads update by AdamW in the host's memory. Every rank must call it."""
    weights = torch.zeros(_HOST_PARAMETERS, requires_grad=True)
    weights.grad = torch.ones_like(weights)
    optimizer = torch.optim.AdamW([weights], fused=True)
    optimizer.step()  # makes its states
    return _HOST_PARAMETERS / median(time_tries(optimizer.step, tries=_TRIES[HOST_OPTIMIZER], clock=clock))
