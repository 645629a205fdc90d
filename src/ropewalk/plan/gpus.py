"""The GPUs of this machine, asked of the driver: of its management library NVML, or of the files that it shows.

CUDA is not asked. A process that has asked CUDA, even only for the number of devices, can fork no rank that uses a GPU.
So the process that starts ranks, the plan and the tests ask here. A rank asks torch for its own device.
"""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DRIVER, DEVICES = Path("/proc/driver/nvidia/gpus"), Path("/dev")
_LIBRARY = "libnvidia-ml.so.1"
_NAME_BYTES = 96
_WIDE_CORES = 64
"""CUDA cores of a multiprocessor of the data centre cards of generations 7 and 8.0; all others have twice as many."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU. ``None`` stands for what the source does not tell.

    ``capability`` is CUDA's compute capability (major, minor), ``processors`` the number of multiprocessors.
    """

    name: str
    memory_bytes: int | None = None
    capability: tuple[int, int] | None = None
    processors: int | None = None


def list_gpus(
    *, driver: Path = DRIVER, devices: Path = DEVICES, load: Callable[[str], Any] = ctypes.CDLL
) -> tuple[Gpu, ...]:
    """Return the GPUs that this process may open, in the driver's order; empty where there is none.

    ``driver`` is the driver's folder with one folder for each GPU, ``devices`` holds the device files, and ``load``
    opens a shared library. CUDA_VISIBLE_DEVICES is not applied (parallel/device.py).
    """
    found = _ask_nvml(load)
    return _read_files(driver, devices) if found is None else found


class _Memory(ctypes.Structure):
    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


def _ask_nvml(load: Callable[[str], Any]) -> tuple[Gpu, ...] | None:
    """Ask the driver's management library; None where it is absent or refuses. In NVML, 0 means success."""
    try:
        nvml = load(_LIBRARY)
    except OSError:
        return None
    if nvml.nvmlInit_v2():
        return None
    try:
        count = ctypes.c_uint()
        if nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)):
            return None
        found = []
        for index in range(count.value):
            handle = ctypes.c_void_p()
            if not nvml.nvmlDeviceGetHandleByIndex_v2(
                index, ctypes.byref(handle)
            ):  # else: this process may not open it
                found.append(_describe(nvml, handle))
        return tuple(found)
    finally:
        nvml.nvmlShutdown()


def _describe(nvml: Any, handle: ctypes.c_void_p) -> Gpu:
    name, memory, cores = ctypes.create_string_buffer(_NAME_BYTES), _Memory(), ctypes.c_uint()
    major, minor = ctypes.c_int(), ctypes.c_int()
    named = not nvml.nvmlDeviceGetName(handle, name, _NAME_BYTES)
    sized = not nvml.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory))
    aged = not nvml.nvmlDeviceGetCudaComputeCapability(handle, ctypes.byref(major), ctypes.byref(minor))
    capability = (major.value, minor.value) if aged else None
    counted = capability is not None and not nvml.nvmlDeviceGetNumGpuCores(handle, ctypes.byref(cores))
    width = _WIDE_CORES if capability is not None and capability <= (8, 0) else 2 * _WIDE_CORES
    return Gpu(
        name.value.decode(errors="replace") if named else "GPU",
        memory.total if sized else None,
        capability,
        cores.value // width if counted else None,
    )


def _read_files(driver: Path, devices: Path) -> tuple[Gpu, ...]:
    """Read the driver's files. A container may see the files of all GPUs and hold the devices of a few."""
    found = []
    for information in sorted(driver.glob("*/information")):
        lines = information.read_text(errors="replace").splitlines()
        told = {key.strip().lower(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
        if (devices / f"nvidia{told.get('device minor', '')}").exists():
            found.append(Gpu(told.get("model", "GPU")))
    return tuple(found)
