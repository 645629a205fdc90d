"""Which kernel computes a layer's tiles, and a rank's schedule of a partition for it.

Most take the rank's own rows first and merge what they find on received ones, so keys travel meanwhile. The *joint*
ones wait until all keys are there, and then take every piece in one call: on a GPU a window is cheap that way, since
few keys travel and no band is cut finer than the kernel's own blocks.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch

from ropewalk.attention import gpu_kernels
from ropewalk.attention.cpu_schedule import stack_tiles
from ropewalk.attention.reference_kernel import PlainKernel
from ropewalk.attention.schedule import Given, KeyRows, QueryRows, Schedule, Scores
from ropewalk.attention.varlen_schedule import RaggedKernel, RaggedTiles, lay_joint, lay_tiles
from ropewalk.core.error import UserError
from ropewalk.partition.partition import Partition


class _FlashKernel:
    """Of the two flash kernels the one that suits a call's tiles."""

    def attend(
        self, query: QueryRows, key: KeyRows, value: KeyRows, tiles: RaggedTiles, scores: Scores
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See varlen_schedule.RaggedKernel."""
        return self._choose(tiles, query).attend(query, key, value, tiles, scores)

    def differentiate(
        self, given: Given, key: KeyRows, value: KeyRows, tiles: RaggedTiles, scores: Scores
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """See varlen_schedule.RaggedKernel."""
        return self._choose(tiles, key).differentiate(given, key, value, tiles, scores)

    def _choose(self, tiles: RaggedTiles, rows: torch.Tensor) -> "gpu_kernels.CudnnKernel | gpu_kernels.VarlenKernel":
        return (
            gpu_kernels.CudnnKernel()
            if gpu_kernels.prefers_cudnn(tiles, rows.shape[-1])
            else gpu_kernels.VarlenKernel()
        )


Maker = Callable[[Partition, int, torch.device], Schedule]


def _lay(make: Callable[..., Schedule], kernel: RaggedKernel) -> Maker:
    return lambda partition, rank, device: make(partition, rank, kernel=kernel, device=device)


KERNELS: Mapping[str, Maker] = {
    "cpu": lambda partition, rank, device: stack_tiles(partition, rank),
    "flash": _lay(lay_tiles, _FlashKernel()),
    "flash_joint": _lay(lay_joint, gpu_kernels.VarlenKernel()),
    "varlen": _lay(lay_tiles, gpu_kernels.VarlenKernel()),
    "cudnn": _lay(lay_tiles, gpu_kernels.CudnnKernel()),
    "plain": _lay(lay_tiles, PlainKernel()),
    "plain_joint": _lay(lay_joint, PlainKernel()),
}
FLEX = "flex"
"""The one that is differentiated by torch itself, so it has no schedule: attention/flex."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What a layer asks of a kernel."""

    device: str
    dtype: torch.dtype
    head_dim: int
    windowed: bool
    soft_cap: bool


_named: ContextVar[str | None] = ContextVar("kernel", default=None)


@contextmanager
def use_kernel(name: str) -> Iterator[None]:
    """Inside, ``attend`` takes this kernel: one of ``KERNELS``, or ``flex``. What it cannot do is not checked first."""
    assert name in KERNELS or name == FLEX, f"no kernel {name}: {', '.join((*KERNELS, FLEX))}"
    token = _named.set(name)
    try:
        yield
    finally:
        _named.reset(token)


def choose_kernel(demand: Demand) -> str:
    """The fastest kernel that does what is asked, or the one that is named.

    Raises UserError where none does.
    """
    if (named := _named.get()) is not None:
        return named
    if demand.device == "cpu":
        return "plain" if demand.soft_cap else "cpu"
    if demand.dtype == torch.float64:
        return "plain"
    if demand.head_dim > gpu_kernels.MOST_HEAD_DIM:
        raise UserError(
            f"no kernel for heads of {demand.head_dim}",
            where="head_dim",
            why=f"flash attention and FlexAttention take up to {gpu_kernels.MOST_HEAD_DIM} on a GPU",
            fix="choose a model with smaller heads",
        )
    if demand.dtype not in gpu_kernels.DTYPES or demand.soft_cap or demand.head_dim % 8:
        return FLEX
    return "flash_joint" if demand.windowed else "flash"


_schedules: WeakKeyDictionary[Partition, dict[tuple[int, str, torch.device], Schedule]] = WeakKeyDictionary()


def schedule_tiles(partition: Partition, rank: int, kernel: str, device: torch.device) -> Schedule:
    """The rank's calls of a kernel under a partition; made at the first request."""
    of_partition = _schedules.setdefault(partition, {})
    key = rank, kernel, device
    if key not in of_partition:
        of_partition[key] = KERNELS[kernel](partition, rank, device)
    return of_partition[key]
