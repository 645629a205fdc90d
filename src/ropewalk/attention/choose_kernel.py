"""Choose the kernel for a layer's tiles, and make a rank's schedule of a partition for it.

Most kernels compute on the rank's own keys first and merge the results on received keys, so that the exchange
overlaps with compute. The *gathered* kernels wait until all keys are there and compute every segment in one call. On
a GPU this is cheap for layers with a window: few keys travel, and no tile is cut finer than the kernel's own blocks.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch

from ropewalk.attention import gpu_kernels
from ropewalk.attention.cpu_schedule import schedule_cpu
from ropewalk.attention.cudnn_shapes import choose_padding, split_calls
from ropewalk.attention.reference_kernel import ReferenceKernel
from ropewalk.attention.schedule import AttentionSchedule
from ropewalk.attention.varlen_schedule import VarlenKernel, schedule_gathered, schedule_varlen
from ropewalk.core.error import UserError
from ropewalk.partition.partition import Partition

Maker = Callable[[Partition, int, torch.device], AttentionSchedule]


def _lay(make: Callable[..., AttentionSchedule], kernel: VarlenKernel) -> Maker:
    return lambda partition, rank, device: make(partition, rank, kernel=kernel, device=device)


def _lay_flash(partition: Partition, rank: int, device: torch.device) -> AttentionSchedule:
    """Of flash attention and cuDNN the one that suits each tile."""
    return split_calls(_VARLEN(partition, rank, device), choose_padding(partition), device)


def _lay_cudnn(partition: Partition, rank: int, device: torch.device) -> AttentionSchedule:
    """cuDNN for every tile, whatever its shape."""
    return split_calls(_VARLEN(partition, rank, device), lambda *_: 0, device)


_VARLEN = _lay(schedule_varlen, gpu_kernels.FlashVarlenKernel())
KERNELS: Mapping[str, Maker] = {
    "cpu": lambda partition, rank, device: schedule_cpu(partition, rank),
    "flash": _lay_flash,
    "flash_gathered": _lay(schedule_gathered, gpu_kernels.FlashVarlenKernel()),
    "varlen": _VARLEN,
    "cudnn": _lay_cudnn,
    "reference": _lay(schedule_varlen, ReferenceKernel()),
    "reference_gathered": _lay(schedule_gathered, ReferenceKernel()),
}
FLEX = "flex"
"""The one that is differentiated by torch itself, so it has no schedule: attention/flex."""


@dataclass(frozen=True, slots=True)
class Demand:
    """The properties of a layer's attention that decide which kernels can run it."""

    device: str
    dtype: torch.dtype
    head_dim: int
    windowed: bool
    soft_cap: bool


_named: ContextVar[str | None] = ContextVar("kernel", default=None)


@contextmanager
def use_kernel(name: str) -> Iterator[None]:
    """Inside, ``attend`` takes this kernel: one of ``KERNELS``, or ``flex``. Its limits are not checked first."""
    assert name in KERNELS or name == FLEX, f"no kernel {name}: {', '.join((*KERNELS, FLEX))}"
    token = _named.set(name)
    try:
        yield
    finally:
        _named.reset(token)


def choose_kernel(demand: Demand) -> str:
    """The fastest kernel for this demand, or the one that ``use_kernel`` names.

    Raises UserError where none can run it.
    """
    if (named := _named.get()) is not None:
        return named
    if demand.device == "cpu":
        return "reference" if demand.soft_cap else "cpu"
    if demand.dtype == torch.float64:
        return "reference"
    if demand.head_dim > gpu_kernels.MOST_HEAD_DIM:
        raise UserError(
            f"there is no kernel for heads of {demand.head_dim} dimensions",
            where="head_dim",
            why=f"on a GPU, flash attention and FlexAttention support at most {gpu_kernels.MOST_HEAD_DIM}",
            fix="choose a model with smaller heads",
        )
    if demand.dtype not in gpu_kernels.DTYPES or demand.soft_cap or demand.head_dim % 8:
        return FLEX
    if demand.windowed:
        return "flash_gathered"
    return "flash" if gpu_kernels.allows_cudnn(demand.head_dim) else "varlen"


_WORDS = {
    "cpu": "torch's kernel for CPUs",
    "flash": "cuDNN's kernel where tiles have few shapes, else {flash}",
    "flash_gathered": "{flash}",
    "varlen": "{flash}",
    "cudnn": "cuDNN's kernel",
    FLEX: "FlexAttention",
}


def describe_kernel(demand: Demand) -> str:
    """What ``choose_kernel`` chooses, in words for users."""
    return _WORDS.get(choose_kernel(demand), "plain torch code").format(flash=gpu_kernels.name_flash())


_asked: dict[tuple[int | None, str, torch.device], None] = {}
_schedules: WeakKeyDictionary[Partition, dict[tuple[int, str, torch.device], AttentionSchedule]] = WeakKeyDictionary()


def schedule_tiles(partition: Partition, rank: int, kernel: str, device: torch.device) -> AttentionSchedule:
    """The rank's calls of a kernel under a partition; made at the first request."""
    of_partition = _schedules.setdefault(partition, {})
    key = rank, kernel, device
    if key not in of_partition:
        of_partition[key] = KERNELS[kernel](partition, rank, device)
        _asked[partition.window, kernel, device] = None
    return of_partition[key]


def asked_schedules() -> list[tuple[int | None, str, torch.device]]:
    """The windows, kernels and devices that this process has asked schedules for."""
    return list(_asked)
