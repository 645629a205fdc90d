"""Measures a machine for its plans: per precision products and attention, and copies, the link between ranks, the host.

All ranks measure at once. Each rate is measured several times in turn, not in a row, so that a program beside it does
not slow all calls of one rate.
"""

import time
from collections.abc import Callable
from typing import Any

import torch

from ropewalk.parallel.collective import rank_and_ranks
from ropewalk.parallel.device import find_own_machine
from ropewalk.parallel.measure_rates import (
    measure_attention,
    measure_link,
    measure_products,
    name_hardware,
    time_fastest,
)
from ropewalk.parallel.mesh import make_mesh
from ropewalk.plan.calibration import Calibration, Rate

CALLS = 8
_COPY_BYTES = {"cpu": 1 << 24, "cuda": 1 << 30}
_TRIES, _COPIES = 5, 3
_PRECISIONS = ("float32", "bfloat16")


def calibrate_rank(ranks: int, heads: int, kv_heads: int, head_dim: int) -> Calibration:
    """Measure this rank's rates, for attention of these heads. Every rank must call it."""
    mesh = make_mesh(ranks, 1)
    device = mesh.device
    clock = _read_processor if device.type == "cpu" else time.perf_counter
    shape = {"heads": heads, "kv_heads": kv_heads, "head_dim": head_dim}
    probes: dict[str, Callable[[], float | None]] = {}
    for precision in _PRECISIONS:
        probes[f"products {precision}"] = lambda each=precision: measure_products(
            each, device, clock=clock, tries=_TRIES
        )  # type: ignore[misc]
        probes[f"attention {precision}"] = lambda each=precision: measure_attention(  # type: ignore[misc]
            each, device, clock=clock, tries=_TRIES, **shape
        )
    probes["copy"] = lambda: _measure_copy(device, device)
    if device.type == "cuda":
        probes["host"] = lambda: _measure_copy(torch.device("cpu"), device)
    if ranks > 1:
        probes["link"] = lambda: measure_link(mesh)
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


def _measure_copy(source: torch.device, target: torch.device) -> float:
    """Bytes a second that are read and written, of a device's own memory, or those that cross from the host."""
    size = _COPY_BYTES[target.type]
    held = torch.ones(size, dtype=torch.uint8, device=source, pin_memory=source != target)
    copied = torch.empty(size, dtype=torch.uint8, device=target)

    def run() -> Any:
        copied.copy_(held)
        copied[0].item()

    return (2 if source == target else 1) * size / time_fastest(run, tries=_COPIES)
