"""torch's AdamW, with weight decay on matrices only; norms and biases have no weight decay.

The fused kernel is used, also on a CPU, on each rank's own shards (sharded_adamw.py). On 55 sharded tensors of a
3.4M-parameter model torch's own fused step took 14 ms, its foreach 50 ms and a loop 61 ms, most of it before a kernel.
"""

from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import nn

from ropewalk.checkpoint.state import name_weights
from ropewalk.model.architectures import is_embedding
from ropewalk.train.eight_bit import EightBitAdamW
from ropewalk.train.moments_kernel import MomentsKernel
from ropewalk.train.sharded_adamw import ShardedAdamW


def make_optimizer(
    model: nn.Module,
    *,
    weight_decay: float,
    betas: tuple[float, float],
    embedding_lr: float = 1.0,
    eight_bit: bool = False,
    begins_with: Collection[str] | None = None,
    moments_kernel: MomentsKernel = "torch",
) -> torch.optim.AdamW:
    """Return AdamW over the trained parameters of ``model``; set its learning rate before each step.

    ``embedding_lr`` multiplies the learning rate of the embedding, and also of the head where the two are tied. With
    ``eight_bit`` the moments of matrices are kept in 8 bits, and ``moments_kernel`` moves them. The first steps of a
    stage may train only the weights named in ``begins_with``; None: all.
    """
    groups = list(_group(model, weight_decay, embedding_lr, begins_with))
    if eight_bit:
        return EightBitAdamW(groups, betas=betas, kernel=moments_kernel)
    return ShardedAdamW(groups, betas=betas)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float, *, frozen: bool = False) -> None:
    """Set the learning rate from the next step on: ``rate`` times the factor of each parameter group.

    While the other weights are ``frozen``, groups that do not begin have a rate of 0, and so no weight decay either.
    """
    for group in optimizer.param_groups:
        group["lr"] = rate * group["rate_factor"] * (group.get("begins", True) or not frozen)


def list_frozen(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    """The parameters that the first steps do not train; they get no gradients there."""
    return [each for group in optimizer.param_groups if not group.get("begins", True) for each in group["params"]]


def _group(
    model: nn.Module, weight_decay: float, embedding_lr: float, begins_with: Collection[str] | None
) -> Iterator[dict[str, Any]]:
    members: dict[tuple[float, float, bool], list[nn.Parameter]] = {}
    for name, parameter in name_weights(model):
        # biases of experts have two dimensions, and the decays of Kimi Linear four
        is_matrix = parameter.dim() >= 2 and not name.endswith(("bias", "A_log"))
        begins = begins_with is None or name in begins_with
        key = weight_decay if is_matrix else 0.0, embedding_lr if is_embedding(name) else 1.0, begins
        members.setdefault(key, []).append(parameter)
    for (decay, factor, begins), parameters in members.items():
        yield {"params": parameters, "weight_decay": decay, "rate_factor": factor, "begins": begins}
