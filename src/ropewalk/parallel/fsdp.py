"""Shard a model's parameters, gradients and optimizer states over all ranks with torch's FSDP2.

Each block is gathered just before it runs. The root's own parameters (embedding, last norm, head) stay gathered during
the root's forward and backward, so a loss inside that forward uses a plain head weight. Gradients are *summed* over
ranks, not averaged: the loss is already divided by the global token count, and ranks hold unequal parts of it. With
replicas, gradients are summed within each replica and then over all replicas. So the moments of all replicas stay equal
without further messages.
"""

import gc
from itertools import pairwise
from typing import Protocol, runtime_checkable
from weakref import WeakSet

import torch
from torch import nn
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
)

from ropewalk.parallel.mesh import Mesh
from ropewalk.plan.memory import UNIT_BYTES, WHOLE_BYTES
from ropewalk.plan.precision import Precision, choose_precision

_sharded: WeakSet[nn.Module] = WeakSet()
"""The models that this process has sharded and that still hold memory."""


@runtime_checkable
class Blocked(Protocol):
    """A module that gives its repeated transformer blocks as ``blocks``."""

    @property
    def blocks(self) -> nn.ModuleList: ...


def shard_model(
    model: Blocked,
    mesh: Mesh,
    *,
    precision: Precision | None = "auto",
    whole_bytes: int = WHOLE_BYTES,
    unit_bytes: int = UNIT_BYTES,
    states_on_host: bool = False,
) -> None:
    """Shard ``model`` in place and move it to the mesh's device; its parameters become DTensors, float32 masters.

    A ``precision`` of None is for a model that only reads: its weights stay in the type that they have.

    With ``bfloat16`` the gathered copies and thus the matrix products are bfloat16; gradients are reduced in float32.
    A model of at most ``whole_bytes`` bytes is one unit; a larger model has one unit per block. Of a block with more
    than ``unit_bytes`` bytes, a module whose own weights are most of it, such as its experts, is one more. With
    ``states_on_host`` the masters, the gradients and thus the optimizer's states stay in host memory. The optimizer
    runs there, and blocks are copied to the device when they are gathered. On one rank the function only sets up the
    mixed precision.
    """
    assert isinstance(model, nn.Module)
    if precision is not None:
        assert all(parameter.dtype == torch.float32 for parameter in model.parameters()), "masters are float32"
    policy = MixedPrecisionPolicy(cast_forward_inputs=False)  # loss weights are float32, positions integers
    if precision is not None and choose_precision(precision, device=mesh.device.type) == "bfloat16":
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False)
    place = CPUOffloadPolicy(pin_memory=mesh.device.type == "cuda") if states_on_host else OffloadPolicy()
    weight_bytes = sum(parameter.nbytes for parameter in model.parameters())
    if weight_bytes > whole_bytes and _sharded:
        # A model and torch's hooks refer to each other: without a collection, the base that was measured or the model
        # of the stage before would keep its memory beside this one.
        gc.collect()
    for block in model.blocks if weight_bytes > whole_bytes else ():
        for part in _find_heavy(block, unit_bytes):
            fully_shard(part, mesh=mesh.sharding, mp_policy=policy, offload_policy=place)
        fully_shard(block, mesh=mesh.sharding, mp_policy=policy, offload_policy=place)
    fully_shard(model, mesh=mesh.sharding, mp_policy=policy, offload_policy=place)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # gloo supports neither averages nor scaled sums
    _prefetch([block for block in model.blocks if isinstance(block, FSDPModule)])
    _sharded.add(model)


def _prefetch(blocks: list[FSDPModule]) -> None:
    """Gather each block's weights before the block ahead of it runs, so that its products hide the messages.

    One block ahead, as plan/memory counts. By default torch issues the message of the forward after the block's own
    kernels, when the host has come that far.
    """
    for before, after in pairwise(blocks):
        before.set_modules_to_forward_prefetch([after])
        after.set_modules_to_backward_prefetch([before])


def _find_heavy(block: nn.Module, unit_bytes: int) -> list[nn.Module]:
    """Return the module whose own weights are more than half of ``block``, if that is larger than ``unit_bytes``."""
    whole = sum(parameter.nbytes for parameter in block.parameters())
    own = {part: sum(each.nbytes for each in part.parameters(recurse=False)) for part in block.modules()}
    return [part for part, held in own.items() if whole > unit_bytes and 2 * held > whole and part is not block]


def is_sharded(model: nn.Module) -> bool:
    """Return whether ``shard_model`` has sharded this model."""
    return isinstance(model, FSDPModule)


def reshard_model(model: nn.Module) -> None:
    """Free the weights that stay gathered after a forward without a backward.

    The root keeps its gathered weights for a backward, which does not come in this case.
    """
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
