"""torch's fused AdamW on each rank's own shards: the same bits as on DTensors, without torch's dispatch of them.

AdamW treats each element alone, so no rank needs another one's shard.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim.adamw import adamw

from ropewalk.checkpoint.state import MOMENTS, make_moments
from ropewalk.parallel.rank_shards import own_shard


class ShardedAdamW(torch.optim.AdamW):
    """torch's fused AdamW, whose kernel gets plain tensors; its state stays in DTensors, which checkpoints read."""

    def __init__(self, groups: list[dict[str, Any]], *, betas: tuple[float, float]) -> None:
        super().__init__(groups, lr=0.0, betas=betas, fused=True)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update all parameters that have a gradient."""
        assert closure is None, "a step is taken once"
        for group in self.param_groups:
            self.move_group(group, [parameter for parameter in group["params"] if parameter.grad is not None])

    def move_group(self, group: dict[str, Any], parameters: Sequence[Float[Tensor, "..."]]) -> None:
        """Update ``parameters`` of a group, and their moments in float32; those that have none yet get them."""
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter] = make_moments(parameter, 0)
        states = [self.state[each] for each in parameters]
        move_shards(
            group,
            [own_shard(each) for each in parameters],
            [own_shard(each.grad) for each in parameters if each.grad is not None],
            [[own_shard(state[name]) for state in states] for name in (*MOMENTS, "step")],
        )


def move_shards(
    group: dict[str, Any],
    weights: list[Float[Tensor, "..."]],
    gradients: list[Float[Tensor, "..."]],
    states: list[list[Float[Tensor, "..."]]],
) -> None:
    """Run torch's fused AdamW on plain tensors; ``states`` holds first moments, second moments, and step counts."""
    if not weights:
        return
    adamw(
        weights,
        gradients,
        states[0],
        states[1],
        [],
        states[2],
        fused=True,
        amsgrad=False,
        beta1=group["betas"][0],
        beta2=group["betas"][1],
        lr=group["lr"],
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        maximize=False,
    )
