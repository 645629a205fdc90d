"""The device of this rank. It is decided once, where the rank starts, and read everywhere else.

CUDA's current device belongs to a thread, and it is 0 in a new thread. So no code asks CUDA for it: tensors are made
with the device of the mesh, and threads that make tensors set it first. Whether there are GPUs is asked of the driver
(plan/gpus.py), because a process that has asked CUDA can fork no rank that uses a GPU.
"""

from dataclasses import replace

import torch

from ropewalk.core.error import UserError
from ropewalk.parallel.torchrun import name_visible_gpus
from ropewalk.plan.gpus import Gpu, list_gpus
from ropewalk.plan.hardware import Machine, describe_gpu_rates, measure_cpu
from ropewalk.plan.host_memory import count_host_bytes
from ropewalk.plan.rank_setup import Kind, RankSetup, choose_kind

_taken: list[torch.device] = []


def take_device(device: torch.device) -> None:
    """Set the device of this rank. The code that starts a rank calls it once, in the rank's thread."""
    _taken[:] = [device]
    use_device(device)
    if device.type == "cuda":
        torch.cuda.init()  # else torch's device mesh finds no device chosen, and chooses one by itself


def rank_device() -> torch.device:
    """Return the device of this rank; in a process that is no rank, the first GPU, or the CPU if there is none."""
    if _taken:
        return _taken[0]
    return torch.device("cuda", 0) if count_gpus() else torch.device("cpu")


def name_device(asked: str) -> torch.device:
    """Return the device for ``parallel.device``: the CPU if that is asked for, else that of this process."""
    return torch.device("cpu") if asked == "cpu" else rank_device()


def use_device(device: torch.device) -> None:
    """Make ``device`` the current one of this thread. A thread that makes tensors calls it first."""
    if device.type == "cuda":
        torch.cuda.set_device(device)


def count_gpus() -> int:
    """Return the number of GPUs that torch can use in this process, without a question to CUDA."""
    if not torch.backends.cuda.is_built():
        return 0
    if torch.version.hip:
        return torch.cuda.device_count()  # asks AMD's management library, not the runtime
    return len(_pick_visible(list_gpus(), name_visible_gpus()))


def choose_rank_kind(setup: RankSetup, *, ranks: int) -> tuple[Kind, str]:
    """Return ``choose_kind`` for ``ranks`` ranks on this machine."""
    built = torch.backends.cuda.is_built()
    without = "the driver shows none, or CUDA_VISIBLE_DEVICES hides them" if built else "this torch is built for CPUs"
    return choose_kind(setup, ranks=ranks, gpus=count_gpus(), without=without)


def require_fork() -> None:
    """Raise UserError where CUDA is in use, or was asked, before the fork: a forked rank could not use its GPU.

    The process that forks and each forked rank call it. Only the rank can tell whether CUDA was merely asked.
    """
    if torch.cuda.is_initialized() or torch.cuda._is_in_bad_fork():
        raise UserError(
            "no ranks can be forked for GPUs",
            where="run_ranks",
            why="the process that starts them has already used CUDA, or asked it how many devices there are",
            fix="call no torch.cuda function before; ask ropewalk.parallel.device.count_gpus(), or use torchrun",
        )


def explain_fork_fault(error: BaseException) -> UserError | None:
    """Return what a rank tells that cannot run a backward because of its parent's; None for any other error."""
    if "Autograd-and-Fork" not in str(error):
        return None
    return UserError(
        "forked ranks cannot compute gradients",
        where="run_ranks",
        why="the process that starts them has run a backward, and torch then started a thread for each device",
        fix="start the ranks before it, run that backward in a process of its own, or use torchrun",
    )


def describe_gpu(device: torch.device) -> Gpu:
    """Return the GPU of a rank as torch describes it; its memory is that of a MIG slice where it is one."""
    found = torch.cuda.get_device_properties(device)
    return Gpu(found.name, found.total_memory, (found.major, found.minor), found.multi_processor_count)


def find_own_machine(*, ranks: int) -> Machine:
    """Return the speed and memory of this rank's device; on a CPU, of its part of the machine that ``ranks`` share."""
    device = rank_device()
    if device.type != "cuda":
        return measure_cpu(ranks=ranks)
    sharing = min(ranks, max(1, len(list_gpus())))  # ranks of this machine
    return replace(describe_gpu_rates(describe_gpu(device)), host_bytes=count_host_bytes() / sharing)


def _pick_visible(gpus: tuple[Gpu, ...], visible: str | None) -> tuple[Gpu, ...]:
    """The GPUs that CUDA_VISIBLE_DEVICES leaves, in its order: numbers, or ids of GPUs. An invalid entry ends it."""
    if visible is None:
        return gpus
    chosen: list[Gpu] = []
    for name in (part.strip() for part in visible.split(",")):
        if name.startswith(("GPU-", "MIG-")) and gpus:
            chosen.append(gpus[0])  # which one it is does not matter for the count
        elif name.isdigit() and int(name) < len(gpus):
            chosen.append(gpus[int(name)])
        else:
            break
    return tuple(chosen)
