"""Part 1: versions, driver, card, host, and whether the plan knows the card."""

import importlib.metadata
import os
import platform
import subprocess

import torch

from gpu.target import Target, read_target, tell
from ropewalk.attention.gpu_kernels import use_installed_flash
from ropewalk.plan.hardware import find_machine

CUDA = torch.device("cuda", 0)
PACKAGES = (
    "torch",
    "transformers",
    "triton",
    "numpy",
    "pydantic",
    "safetensors",
    "tokenizers",
    "flash-attn",
    "liger-kernel",
)
QUERY = "name,driver_version,memory.total,clocks.max.sm,clocks.max.mem,power.limit,mig.mode.current"


def find_version(package: str) -> str | None:
    """None where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def ask_driver() -> str | None:
    """What the driver's own tool says of the card; None where there is none."""
    try:
        done = subprocess.run(
            ["nvidia-smi", f"--query-gpu={QUERY}", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def main(target: Target) -> None:
    tell("python and packages", python=platform.python_version(), **{name: find_version(name) for name in PACKAGES})
    tell("host", cores=os.cpu_count(), memory_gib=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)
    tell("driver", fields=QUERY, answer=ask_driver())
    machine = find_machine()
    tell("the plan takes this machine for", name=machine.name, source=machine.source)
    if target.dry:
        return
    card = torch.cuda.get_device_properties(0)
    tell(
        "card", name=card.name, capability=[card.major, card.minor], memory_gib=card.total_memory / 2**30,
        processors=card.multi_processor_count, cuda=torch.version.cuda, cudnn=torch.backends.cudnn.version(),
        nccl=list(torch.cuda.nccl.version()), cudnn_attention=torch.backends.cuda.cudnn_sdp_enabled(),
        installed_flash=use_installed_flash(CUDA),
    )  # fmt: skip


if __name__ == "__main__":
    main(read_target())
