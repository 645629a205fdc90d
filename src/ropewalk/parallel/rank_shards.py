"""Make tensors on a rank's own shard of a DTensor, without torch's dispatch of operators on DTensors.

For each operator on a DTensor torch looks for a sharding of the result, and runs the operator once without values. It
remembers this only within one thread, so every rank pays it again for each operator and shape (docs/log.md). An
operator that works on each element gives the same bits on the shards alone.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor
from torch.distributed.tensor import DTensor


def own_shard(tensor: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
    """Return this rank's shard of ``tensor``, or a plain tensor as it is."""
    local: Tensor = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    return local


@torch.no_grad()
def map_shard(
    tensor: Shaped[Tensor, "..."], make: Callable[..., Shaped[Tensor, "..."]], **settings: Any
) -> Shaped[Tensor, "..."]:
    """Return ``make(tensor, **settings)``, where ``make`` keeps the shape and treats each element alone.

    Examples are ``torch.zeros_like`` and ``torch.clone``. The result is placed as ``tensor`` is, and has no gradient.
    Where the shards lie on another device than the mesh's (states on the host), torch's dispatch does the work: there
    is no public way to place such a shard.
    """
    if not isinstance(tensor, DTensor) or not tensor.shape:
        return make(tensor.detach(), **settings)
    made = make(tensor.to_local(), **settings)
    if made.device.type != tensor.device_mesh.device_type:
        return make(tensor.detach(), **settings)
    return DTensor.from_local(
        made, tensor.device_mesh, tensor.placements, run_check=False, shape=tensor.shape, stride=tensor.stride()
    )
