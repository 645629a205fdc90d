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
from ropewalk.attention.reference_kernel import ReferenceKernel
from ropewalk.attention.schedule import AttentionSchedule, BackwardInputs, KeyRows, QueryRows, Scores
from ropewalk.attention.varlen_schedule import VarlenKernel, VarlenTiles, schedule_gathered, schedule_varlen
from ropewalk.core.error import UserError
from ropewalk.partition.partition import Partition


class _FlashKernel:
    """Of the two flash kernels the one that suits a call's tiles."""

    def attend(
        self, query: QueryRows, key: KeyRows, value: KeyRows, tiles: VarlenTiles, scores: Scores
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See varlen_schedule.VarlenKernel."""
        return self._choose(tiles, query).attend(query, key, value, tiles, scores)

    def differentiate(
        self, inputs: BackwardInputs, key: KeyRows, value: KeyRows, tiles: VarlenTiles, scores: Scores
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """See varlen_schedule.VarlenKernel."""
        return self._choose(tiles, key).differentiate(inputs, key, value, tiles, scores)

    def _choose(
        self, tiles: VarlenTiles, rows: torch.Tensor
    ) -> "gpu_kernels.CudnnKernel | gpu_kernels.FlashVarlenKernel":
        return (
            gpu_kernels.CudnnKernel()
            if gpu_kernels.prefers_cudnn(tiles, rows.shape[-1])
            else gpu_kernels.FlashVarlenKernel()
        )


Maker = Callable[[Partition, int, torch.device], AttentionSchedule]


def _lay(make: Callable[..., AttentionSchedule], kernel: VarlenKernel) -> Maker:
    return lambda partition, rank, device: make(partition, rank, kernel=kernel, device=device)


KERNELS: Mapping[str, Maker] = {
    "cpu": lambda partition, rank, device: schedule_cpu(partition, rank),
    "flash": _lay(schedule_varlen, _FlashKernel()),
    "flash_gathered": _lay(schedule_gathered, gpu_kernels.FlashVarlenKernel()),
    "varlen": _lay(schedule_varlen, gpu_kernels.FlashVarlenKernel()),
    "cudnn": _lay(schedule_varlen, gpu_kernels.CudnnKernel()),
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
            f"no kernel for heads of {demand.head_dim}",
            where="head_dim",
            why=f"flash attention and FlexAttention take up to {gpu_kernels.MOST_HEAD_DIM} on a GPU",
            fix="choose a model with smaller heads",
        )
    if demand.dtype not in gpu_kernels.DTYPES or demand.soft_cap or demand.head_dim % 8:
        return FLEX
    return "flash_gathered" if demand.windowed else "flash"


_schedules: WeakKeyDictionary[Partition, dict[tuple[int, str, torch.device], AttentionSchedule]] = WeakKeyDictionary()


def schedule_tiles(partition: Partition, rank: int, kernel: str, device: torch.device) -> AttentionSchedule:
    """The rank's calls of a kernel under a partition; made at the first request."""
    of_partition = _schedules.setdefault(partition, {})
    key = rank, kernel, device
    if key not in of_partition:
        of_partition[key] = KERNELS[kernel](partition, rank, device)
    return of_partition[key]
