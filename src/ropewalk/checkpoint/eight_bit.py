"""Moments in 8 bits, as they are stored: a block of numbers is a float32 scale and a byte each.

The bytes stand for 256 numbers that lie the denser the smaller they are (Dettmers et al., 2110.02861). A block lies
within one row of the whole matrix, so that bytes and scales are sharded as their weight is. It stands here and not
beside the optimizer, because a checkpoint of either form must be read into the other.
"""

import math
from functools import cache

import torch
from jaxtyping import Float32, UInt8
from torch import Tensor
from torch.nn.functional import pad

BLOCK_ELEMENTS = 256
SCALE = "_scale"
"""Ends the name of a moment's scales."""


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
