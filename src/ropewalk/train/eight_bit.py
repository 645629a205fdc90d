"""AdamW with moments in 8 bits: a few matrix rows are decoded, updated by torch's own kernel, and rounded again.

The storage format is that of checkpoint/eight_bit.py. A block lies within one row of the *whole* matrix, independent of
the shard on a rank. So bytes and scales are sharded in the same way as their weight, and they load on any number of
ranks, bit for bit. In torchao blocks run over a rank's own shard, so another number of ranks cannot use them. No
compiler is needed.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from ropewalk.checkpoint.convert_moments import count_blocks, zeros_by_row
from ropewalk.checkpoint.eight_bit import SCALE, decode_moments, encode_moments
from ropewalk.parallel.rank_shards import map_shard, own_shard
from ropewalk.train.moments_kernel import MomentsKernel, has_its_blocks, load_moments_kernel
from ropewalk.train.sharded_adamw import ShardedAdamW, move_shards

_SMALLEST_ELEMENTS = 4096
"""Smaller tensors, and all that are not matrices, keep moments in float32: norms are few, but they are important."""
_SLICE_ELEMENTS = 1 << 22
"""The number of a matrix's elements whose moments are in float32 at a time."""


class EightBitAdamW(ShardedAdamW):
    """torch's AdamW with one difference: the moments of matrices are rounded to 8 bits between steps."""

    def __init__(
        self, groups: list[dict[str, Any]], *, betas: tuple[float, float], kernel: MomentsKernel = "torch"
    ) -> None:
        super().__init__(groups, betas=betas)
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        for parameter in parameters:
            self.state[parameter] = _first_state(parameter)
        self._installed = load_moments_kernel(kernel, own_shard(parameters[0]).device, ours=move_in_parts)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update all parameters that have a gradient."""
        assert closure is None, "a step is taken once"
        if self._installed is not None:  # the kernel takes a number; all are read from the device at once
            earlier = torch.stack([own_shard(state["step"]) for state in self.state.values()]).tolist()
            self._updates = {each: 1 + round(steps) for each, steps in zip(self.state, earlier, strict=True)}
        for group in self.param_groups:
            learnt = [parameter for parameter in group["params"] if parameter.grad is not None]
            self.move_group(group, [each for each in learnt if "exp_avg" + SCALE not in self.state[each]])
            for parameter in learnt:
                if "exp_avg" + SCALE in self.state[parameter]:
                    self._move_matrix(parameter, group)

    def _move_matrix(self, parameter: Float[Tensor, "rows ..."], group: dict[str, Any]) -> None:
        state: dict[str, Any] = {name: own_shard(value) for name, value in self.state[parameter].items()}
        assert parameter.grad is not None, "a parameter without a gradient is not moved"
        weight, grad = own_shard(parameter).flatten(1), own_shard(parameter.grad).flatten(1)
        if self._installed is not None and has_its_blocks(weight):
            self._installed(weight, grad, {**state, "updates": self._updates[parameter]}, group)
        else:
            move_in_parts(weight, grad, state, group)
        state["step"] += 1


def move_in_parts(
    weight: Float[Tensor, "rows width"],
    grad: Float[Tensor, "rows width"],
    state: Mapping[str, Any],
    group: dict[str, Any],
) -> None:
    """Move a shard of a matrix and its moments by one update, a few rows at a time; ``state["step"]`` stays."""
    rows = max(1, _SLICE_ELEMENTS // weight.shape[1])
    for first in range(0, len(weight), rows):
        part = slice(first, first + rows)
        moments = [
            decode_moments(state[name].flatten(1)[part], state[name + SCALE][part], signed=signed)
            for name, signed in (("exp_avg", True), ("exp_avg_sq", False))
        ]
        move_shards(group, [weight[part]], [grad[part]], [[moments[0]], [moments[1]], [state["step"].clone()]])
        for name, moment, signed in (("exp_avg", moments[0], True), ("exp_avg_sq", moments[1], False)):
            codes, scale = encode_moments(moment, signed=signed)
            state[name].flatten(1)[part], state[name + SCALE][part] = codes, scale


def _first_state(parameter: Float[Tensor, "..."]) -> dict[str, Shaped[Tensor, "..."]]:
    state = {"step": torch.zeros((), device=parameter.device)}
    if parameter.dim() < 2 or parameter.numel() < _SMALLEST_ELEMENTS:
        return state | {name: map_shard(parameter, torch.zeros_like) for name in ("exp_avg", "exp_avg_sq")}
    for name in ("exp_avg", "exp_avg_sq"):
        state[name] = map_shard(parameter, torch.zeros_like, dtype=torch.uint8)
        state[name + SCALE] = zeros_by_row(parameter, (len(parameter), count_blocks(parameter)))
    return state
