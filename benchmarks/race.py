"""Sides of a claim, run turn by turn in one process group, and what the machine could do at best.

A shared machine is slow for seconds at a time, so a time alone says little. Every turn runs each side once; a side's
figure is the median of its turns, of the rank that took longest. Beside it stand limits measured in the same run: the
rate of matrix products on every rank at once, and the rate of the link between two ranks.
"""

import json
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.distributed as dist

from ropewalk.parallel.device import rank_device
from ropewalk.plan.devices import find_peak_flops

_PRODUCT_WIDTH = {"cpu": 1024, "cuda": 8192}
_LINK_BYTES = 1 << 24
_PROBES = 5


def race(sides: Mapping[str, Callable[[], Any]], *, turns: int, device: str = "cpu") -> dict[str, float]:
    """Median seconds of every side, as the slowest rank sees it; all ranks call it with the same sides."""
    return {name: statistics.median(each) for name, each in race_turns(sides, turns=turns, device=device).items()}


def race_turns(sides: Mapping[str, Callable[[], Any]], *, turns: int, device: str = "cpu") -> dict[str, list[float]]:
    """The seconds of every turn of every side, as ``race``."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(turns):
        for name, run in sides.items():
            seconds[name].append(clock(run, device))
    return seconds


def clock(run: Callable[[], Any], device: str = "cpu") -> float:
    """Seconds of one run, of the slowest rank."""
    dist.barrier()
    _settle(device)
    begun = time.perf_counter()
    run()
    _settle(device)
    took = torch.tensor([time.perf_counter() - begun], dtype=torch.float64)
    dist.all_reduce(took, op=dist.ReduceOp.MAX)
    return float(took)


def clock_both(run: Callable[[], Any], device: str = "cpu") -> list[float]:
    """Seconds of one run, of the slowest rank: by the clock, and of processor time, which others disturb less."""
    begun = time.process_time()
    elapsed = clock(run, device)
    used = torch.tensor([time.process_time() - begun], dtype=torch.float64)
    dist.all_reduce(used, op=dist.ReduceOp.MAX)
    return [elapsed, float(used)]


def time_alone(run: Callable[[], Any]) -> float:
    """Median seconds of processor time of what waits for nobody, so that others on the machine do not count."""
    seconds = []
    for _ in range(2 * _PROBES):
        begun = time.process_time()
        run()
        seconds.append(time.process_time() - begun)
    return statistics.median(seconds)


def measure_products(dtype: torch.dtype, device: str = "cpu") -> float:
    """FLOP/s of a square matrix product on each rank while all of them compute: the best of a few."""
    width = _PRODUCT_WIDTH[device]
    left, right = (torch.randn(width, width, device=device).to(dtype) for _ in range(2))
    left @ right
    return 2 * width**3 / min(clock(lambda: left @ right, device) for _ in range(_PROBES))


def measure_link(device: str = "cpu") -> float:
    """Bytes per second that every rank sends and receives at once in an all-to-all; infinite with one rank."""
    if dist.get_world_size() == 1:
        return float("inf")
    sent = torch.empty(_LINK_BYTES // 4 * dist.get_world_size(), device=device)
    received = torch.empty_like(sent)
    best = min(clock(lambda: dist.all_to_all_single(received, sent), device) for _ in range(_PROBES))
    return _LINK_BYTES * (dist.get_world_size() - 1) / best


def find_share_of_datasheet(flops: float) -> float | None:
    """A rate as a share of what the GPU's maker promises in bfloat16; None for what is not in the table of devices."""
    device = rank_device()
    promised = find_peak_flops(torch.cuda.get_device_name(device)) if device.type == "cuda" else 0.0
    return flops / promised if promised else None


def tell(
    case: str, peer: str, *, ours: float, theirs: float | None, unit: str, must_reach: float | None, **more: Any
) -> None:
    """Print one line; less is better in every unit but rates (``.../s``) and ``tokens``.

    ``theirs`` is None for an absent peer.
    """
    ratio = None
    if theirs is not None and ours and theirs:
        ratio = ours / theirs if unit.endswith(("/s", "tokens")) else theirs / ours
    figures = {"ours": ours, "theirs": theirs, "unit": unit, "ratio": ratio, "must_reach": must_reach}
    line = {"case": case, "peer": peer, **figures, **more}
    print(json.dumps({key: _short(value) for key, value in line.items()}), flush=True)


def _short(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _short(each) for key, each in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _settle(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
