"""Where a save copies a rank's shards to: host memory, by torch's stager.

On a GPU the copies of all tensors are queued one after another into pinned memory, and the host waits once, for all of
them. The pinned memory has the exact size of the shards and is used again by the next save, so it is paid for once. On
a CPU the memory is the device's, so a copy lives only until it is written.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Shaped
from torch import Tensor
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

from ropewalk.parallel.rank_shards import map_shard


class HostStage:
    """Copies tensors of ``device`` into host memory. A copy holds until the next one is made."""

    def __init__(self, device: torch.device) -> None:
        self._stager = DefaultStager(make_options(device)) if device.type == "cuda" else None

    def copy(self, tensors: Mapping[str, Shaped[Tensor, "..."]]) -> dict[str, Shaped[Tensor, "..."]]:
        """The same tensors in host memory, finished when the call returns."""
        if self._stager is None:
            return {name: map_shard(tensor, torch.clone) for name, tensor in tensors.items()}
        staged = self._stager.stage({name: tensor.detach() for name, tensor in tensors.items()})
        assert isinstance(staged, dict), "it does not stage in the background"
        return staged

    def close(self) -> None:
        """Free the pinned memory."""
        if self._stager is not None:
            self._stager.close()


def make_options(device: torch.device) -> StagingOptions:
    """How torch copies from ``device``."""
    apart = device.type == "cuda"
    return StagingOptions(
        use_pinned_memory=apart, use_shared_memory=False, use_async_staging=False, use_non_blocking_copy=apart
    )
