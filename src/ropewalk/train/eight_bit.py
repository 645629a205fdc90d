"""AdamW whose moments are kept in 8 bits: a few rows are read out, moved by torch's own kernel, and rounded again.

A block of numbers is a float32 scale and a byte each, from 256 numbers that lie the denser the smaller they are
(Dettmers et al., 2110.02861). The surprise is where a block lies: within one row of the *whole* matrix, whatever a rank
holds of it. So bytes and scales are sharded as their weight is, and load on any number of ranks to the bit; torchao's
blocks run over a rank's own shard, of which other ranks can make nothing. It also needs no compiler.
"""

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.distributed.tensor as sharded
from jaxtyping import Float32, UInt8
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn.functional import pad
from torch.optim.adamw import adamw

BLOCK_ELEMENTS = 256
_SMALLEST_ELEMENTS = 4096
"""What is smaller, or no matrix, keeps its moments in float32: norms are few and matter."""
_SLICE_ELEMENTS = 1 << 22
"""How much of a matrix is in float32 at a time."""
_SCALE = "_scale"


class EightBitAdamW(torch.optim.AdamW):
    """torch's AdamW in every figure but the moments of matrices, which are rounded to 8 bits between steps."""

    def __init__(self, groups: list[dict[str, Any]], *, betas: tuple[float, float]) -> None:
        super().__init__(groups, lr=0.0, betas=betas, fused=True)
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter] = _first_state(parameter)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Move everything that has a gradient."""
        assert closure is None, "a step is taken once"
        for group in self.param_groups:
            learnt = [parameter for parameter in group["params"] if parameter.grad is not None]
            plain = [each for each in learnt if "exp_avg" + _SCALE not in self.state[each]]
            states = [self.state[each] for each in plain]
            _move(
                group,
                [_local(each) for each in plain],
                [_local(each.grad) for each in plain],
                [[_local(state[name]) for state in states] for name in ("exp_avg", "exp_avg_sq", "step")],
            )
            for parameter in learnt:
                if "exp_avg" + _SCALE in self.state[parameter]:
                    self._move_matrix(parameter, group)

    def _move_matrix(self, parameter: Tensor, group: dict[str, Any]) -> None:
        state = {name: _local(value) for name, value in self.state[parameter].items()}
        weight, grad = _local(parameter).flatten(1), _local(parameter.grad).flatten(1)
        rows = max(1, _SLICE_ELEMENTS // weight.shape[1])
        for first in range(0, len(weight), rows):
            part = slice(first, first + rows)
            moments = [
                decode(state[name].flatten(1)[part], state[name + _SCALE][part], signed=signed)
                for name, signed in (("exp_avg", True), ("exp_avg_sq", False))
            ]
            _move(group, [weight[part]], [grad[part]], [[moments[0]], [moments[1]], [state["step"].clone()]])
            for name, moment, signed in (("exp_avg", moments[0], True), ("exp_avg_sq", moments[1], False)):
                codes, scale = encode(moment, signed=signed)
                state[name].flatten(1)[part], state[name + _SCALE][part] = codes, scale
        state["step"] += 1


def encode(
    values: Float32[Tensor, "rows width"], *, signed: bool
) -> tuple[UInt8[Tensor, "rows width"], Float32[Tensor, "rows blocks"]]:
    """Each number's byte, and each block's scale, its largest size; a row's last block may be shorter.

    Where numbers are not ``signed`` none but those of an empty block becomes 0: they are what Adam divides by, and
    without them what is left of a small first moment would be divided by eps alone.
    """
    blocks = math.ceil(values.shape[1] / BLOCK_ELEMENTS)
    blocked = pad(values, (0, blocks * BLOCK_ELEMENTS - values.shape[1])).unflatten(1, (blocks, BLOCK_ELEMENTS))
    scale = blocked.abs().amax(-1)
    codes = find_nearest(blocked / scale.clamp(min=torch.finfo(torch.float32).tiny)[..., None], signed=signed)
    if not signed:
        codes.clamp_(min=1)
    return codes.flatten(1)[:, : values.shape[1]], scale


def decode(
    codes: UInt8[Tensor, "rows width"], scale: Float32[Tensor, "rows blocks"], *, signed: bool
) -> Float32[Tensor, "rows width"]:
    """The numbers that ``encode`` wrote, as near as a byte comes."""
    values = _numbers(signed, codes.device).index_select(0, codes.flatten().int()).view(codes.shape)
    return values.mul_(scale.repeat_interleave(BLOCK_ELEMENTS, dim=1)[:, : codes.shape[1]])


def find_nearest(unit: Float32[Tensor, "*shape"], *, signed: bool) -> UInt8[Tensor, "*shape"]:
    """The byte of the nearest of the 256 numbers, for values from -1 to 1.

    A search among 255 borders is what a step would spend its time on (docs/log.md). A value's upper 16 bits leave one
    border at most to ask for.
    """
    least, borders = _nearest(signed, unit.device)
    upper = (unit.view(torch.int32) >> 16).bitwise_and_(0xFFFF)
    codes = least.index_select(0, upper.flatten())
    codes += unit.flatten() >= borders.index_select(0, codes.int())
    return codes.view(unit.shape)


@cache
def _nearest(signed: bool, device: torch.device) -> tuple[UInt8[Tensor, "65536"], Float32[Tensor, "256"]]:
    """By the upper 16 bits of a value: how many borders lie below all that begin so. And the borders, and infinity."""
    borders = _borders(signed, device)
    upper = torch.arange(1 << 16, dtype=torch.int32, device=device) << 16
    first, last = (
        torch.bucketize(bits.view(torch.float32), borders, right=True) for bits in (upper, upper | ((1 << 16) - 1))
    )
    sizes = (upper & 0x7FFFFFFF).view(torch.float32) <= 1
    assert ((first - last).abs() <= 1)[sizes].all(), "two borders share their upper bits"
    return torch.minimum(first, last).to(torch.uint8), torch.cat([borders, borders.new_tensor([math.inf])])


@cache
def _numbers(signed: bool, device: torch.device) -> Float32[Tensor, "256"]:
    """What bytes stand for, rising: seven decades, of which each has twice the numbers of the one below; 0; 1."""
    sizes = []
    for decade in range(7):
        edges = torch.linspace(0.1, 1, 2 ** (decade + (0 if signed else 1)) + 1)
        sizes += (10.0 ** (decade - 6) * (edges[:-1] + edges[1:]) / 2).tolist()
    numbers = sorted([0.0, 1.0, *sizes, *([-size for size in sizes] if signed else [])])
    assert len(numbers) == 256
    return torch.tensor(numbers, device=device)


@cache
def _borders(signed: bool, device: torch.device) -> Float32[Tensor, "255"]:
    numbers = _numbers(signed, device)
    return (numbers[:-1] + numbers[1:]) / 2


def _first_state(parameter: Tensor) -> dict[str, Tensor]:
    state = {"step": torch.zeros((), device=parameter.device)}
    if parameter.dim() < 2 or parameter.numel() < _SMALLEST_ELEMENTS:
        return state | {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
    blocks = math.ceil(parameter[0].numel() / BLOCK_ELEMENTS)
    for name in ("exp_avg", "exp_avg_sq"):
        state[name] = torch.zeros_like(parameter, dtype=torch.uint8)
        state[name + _SCALE] = _zeros(parameter, (len(parameter), blocks))
    return state


def _zeros(parameter: Tensor, shape: tuple[int, int]) -> Tensor:
    """Float32 zeros whose rows lie where those of ``parameter`` do."""
    if isinstance(parameter, DTensor):
        return sharded.zeros(shape, device_mesh=parameter.device_mesh, placements=parameter.placements)
    return torch.zeros(shape, device=parameter.device)


def _local(tensor: Any) -> Tensor:
    local: Tensor = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    return local


def _move(group: dict[str, Any], weights: list[Tensor], gradients: list[Tensor], states: list[list[Tensor]]) -> None:
    """torch's fused AdamW on plain tensors; ``states`` are first moments, second ones, and counts of steps."""
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
