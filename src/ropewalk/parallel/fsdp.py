"""Shard a model's parameters, gradients and optimizer states over all ranks with torch's FSDP2.

Each block is gathered just before it runs; what the root owns itself (embedding, last norm, head) is gathered for as
long as the root's forward and backward run, so a loss inside that forward sees a plain head weight. Gradients are
*summed* over ranks: the loss has been divided by the step's global token count already, and ranks hold unequal parts.
With replicas they are summed within each and then over all of them, which holds their moments alike without a word.
"""

from collections.abc import Mapping
from typing import Any, Literal, Protocol, runtime_checkable

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
from ropewalk.plan.memory import WHOLE_BYTES

Precision = Literal["auto", "float32", "bfloat16"]


@runtime_checkable
class Blocked(Protocol):
    """A module that names its repeated blocks."""

    @property
    def blocks(self) -> nn.ModuleList: ...


def shard_model(
    model: Blocked,
    mesh: Mesh,
    *,
    precision: Precision = "auto",
    whole_bytes: int = WHOLE_BYTES,
    states_on_host: bool = False,
) -> None:
    """Shard ``model`` in place, moving it to the mesh's device; its parameters become DTensors, float32 masters.

    With ``bfloat16`` the gathered copies and so the matrix products are bfloat16, and reductions of gradients float32.
    A model of at most ``whole_bytes`` is one unit. With ``states_on_host`` masters, gradients and so the optimizer's
    states stay in host memory, where the optimizer runs; blocks travel to the device as they are gathered.
    Works on one rank too, where it only makes that mixed precision.
    """
    assert isinstance(model, nn.Module)
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters()), "masters are float32"
    policy = MixedPrecisionPolicy(cast_forward_inputs=False)  # loss weights are float32, positions integers
    if choose_precision(precision, mesh) == "bfloat16":
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False)
    place = CPUOffloadPolicy(pin_memory=mesh.device.type == "cuda") if states_on_host else OffloadPolicy()
    weight_bytes = sum(parameter.nbytes for parameter in model.parameters())
    for block in model.blocks if weight_bytes > whole_bytes else ():
        fully_shard(block, mesh=mesh.sharding, mp_policy=policy, offload_policy=place)
    fully_shard(model, mesh=mesh.sharding, mp_policy=policy, offload_policy=place)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # gloo knows neither averages nor scaled sums


def reshard_model(model: nn.Module) -> None:
    """Let go of what a forward without a backward has left gathered: the root keeps its weights for the latter."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def choose_precision(precision: Precision, mesh: Mesh) -> Literal["float32", "bfloat16"]:
    """What ``auto`` means here: bfloat16 on an accelerator, and on a CPU that multiplies it in hardware."""
    if precision != "auto":
        return precision
    return "bfloat16" if mesh.device.type == "cuda" or _multiplies_bfloat16() else "float32"


def _multiplies_bfloat16() -> bool:
    # torch 2.11 cannot tell, and is then taken at its slower word.
    capabilities: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
