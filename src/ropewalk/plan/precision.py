"""The precision of matrix products: one rule for training and one for reading, which plans ask too."""

import functools
from pathlib import Path
from typing import Literal

Precision = Literal["auto", "float32", "bfloat16"]
"""As ``parallel.precision`` and ``evaluate.precision`` of a recipe are written."""

_CPU_INFO = Path("/proc/cpuinfo")
_FLAGS = {"avx512_bf16", "amx_bf16"}


def choose_precision(precision: Precision, *, device: str) -> Literal["float32", "bfloat16"]:
    """The precision on a kind of device, ``cpu`` or ``cuda``.

    ``auto`` is bfloat16 on a GPU and on a CPU that multiplies bfloat16; the CPU is this machine's.
    """
    if precision != "auto":
        return precision
    return "bfloat16" if device == "cuda" or multiplies_bfloat16() else "float32"


def choose_reading_precision(precision: Precision, *, device: str) -> Literal["float32", "bfloat16"]:
    """The precision of a model that is only read, on a kind of device, ``cpu`` or ``cuda``.

    ``auto`` is bfloat16 on a GPU, which multiplies float32 up to 15 times more slowly, and float32 on every CPU.
    """
    if precision != "auto":
        return precision
    return "bfloat16" if device == "cuda" else "float32"


@functools.cache
def multiplies_bfloat16() -> bool:
    """Whether this machine's CPU has instructions for products of bfloat16; False where that is not known."""
    return not _FLAGS.isdisjoint(read_cpu_flags())


def read_cpu_flags() -> set[str]:
    """What this machine's CPU can do, by the names that Linux lists; empty elsewhere."""
    lines = _CPU_INFO.read_text(encoding="utf-8").splitlines() if _CPU_INFO.is_file() else []
    flags = next((line for line in lines if line.startswith("flags")), "")
    return set(flags.split())
