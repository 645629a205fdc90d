"""Measure the peak memory of tensors, in bytes, with the allocator's figures and not with the size of the process.

A process also holds code, caches and memory that its allocator has not released. So the size of the process is a poor
measure of the memory that a sequence needs. A GPU's allocator records the peak itself. On a CPU, torch's profiler
reports every allocation and release, and the peak is the maximum of their running sum.
"""

import resource
import sys
from collections.abc import Callable

import torch


def held_peak_bytes(device: torch.device) -> int:
    """Return this rank's peak memory so far, in bytes: of the GPU's allocator, or of the whole process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB


def measure_peak_bytes(run: Callable[[], object], device: torch.device) -> int:
    """Return the peak of allocated bytes during ``run()``, above the bytes allocated at its start."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    profiler = profile.profiler
    assert profiler is not None and profiler.kineto_results is not None
    changes = [
        (event.start_ns(), event.nbytes())
        for event in profiler.kineto_results.events()
        if event.name() == "[memory]" and event.device_type() == torch.profiler.DeviceType.CPU
    ]
    held = most = 0
    for _, size in sorted(changes, key=lambda change: change[0]):
        held += size
        most = max(most, held)
    return most
