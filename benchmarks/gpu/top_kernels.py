"""Part 8: where the time of a step goes: the profiler's twenty longest kernels of a model of 8B width, two layers."""

from typing import Any

import torch

from gpu.layers import SAVINGS
from gpu.target import Target, read_target, tell
from memory_sides import Case, make_step
from ropewalk.attention.gpu_kernels import allows_cudnn
from ropewalk.parallel.launch import run_ranks
from ropewalk.plan.rank_setup import RankSetup

TOP = 20
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")


def measure(target: Target) -> None:
    tokens = target.pick(131_072, 512, 128)
    case = Case(target.pick("8B width, 2 layers", *["tiny, 2 layers"] * 2), tokens, tokens, target.device, 1)
    activities = [torch.profiler.ProfilerActivity.CPU]
    if not target.dry:
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with target.emulate("cudnn"):
        _, step = make_step(case, SAVINGS, precision="bfloat16")
        step()
        with torch.profiler.profile(activities=activities) as profile:
            seconds = target.clock(step)
    events = profile.key_averages()
    longest = sorted(events, key=lambda event: find_microseconds(target, event), reverse=True)
    total = sum(find_microseconds(target, event) for event in events)
    tell(
        "profiled step", model=case.model, tokens=tokens, seconds=seconds, busy_seconds=total / 1e6,
        launches=sum(event.count for event in events if event.key.startswith("cudaLaunch")),
        waits=sum(event.count for event in events if event.key in WAITS), allows_cudnn=allows_cudnn(128),
    )  # fmt: skip
    for event in longest[:TOP]:
        mine = find_microseconds(target, event)
        tell("kernel", name=event.key[:160], milliseconds=mine / 1e3, share=mine / total, calls=event.count)


def find_microseconds(target: Target, event: Any) -> float:
    """An event's own time: on the GPU, or in a dry run on the CPU."""
    return float(event.self_cpu_time_total if target.dry else event.self_device_time_total)


if __name__ == "__main__":
    target = read_target()
    run_ranks(measure, 1, target, setup=RankSetup(target.device))
