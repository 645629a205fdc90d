"""The storage format of moments in 8 bits: a block of numbers is one float32 scale and one byte for each number.

A byte stands for one of 256 numbers. Small numbers lie closer together than large ones (Dettmers et al., 2110.02861).
A block lies within one row of the whole matrix, so bytes and scales are sharded in the same way as their weight. This
file is not beside the optimizer, because a checkpoint of either form must be read into the other form.
"""

import math
from functools import cache

import torch
from jaxtyping import Float32, UInt8
from torch import Tensor
from torch.nn.functional import pad

BLOCK_ELEMENTS = 256
SCALE = "_scale"
"""The suffix in the name of a moment's scales."""


def encode_moments(
    values: Float32[Tensor, "rows width"], *, signed: bool
) -> tuple[UInt8[Tensor, "rows width"], Float32[Tensor, "rows blocks"]]:
    """Return a byte for each number and a scale for each block; a row's last block may be shorter.

    The scale is the largest absolute value of the block. If the numbers are not ``signed``, only numbers in a block of
    zeros become 0. The reason: Adam divides by these numbers. If one became 0, the rest of a small first moment would
    be divided by eps alone.
    """
    blocks = math.ceil(values.shape[1] / BLOCK_ELEMENTS)
    blocked = pad(values, (0, blocks * BLOCK_ELEMENTS - values.shape[1])).unflatten(1, (blocks, BLOCK_ELEMENTS))
    scale = blocked.abs().amax(-1)
    codes = find_nearest(blocked / scale.clamp(min=torch.finfo(torch.float32).tiny)[..., None], signed=signed)
    if not signed:
        codes.clamp_(min=1)
    return codes.flatten(1)[:, : values.shape[1]], scale


def decode_moments(
    codes: UInt8[Tensor, "rows width"], scale: Float32[Tensor, "rows blocks"], *, signed: bool
) -> Float32[Tensor, "rows width"]:
    """Return the numbers that ``encode_moments`` wrote, to the precision of one byte."""
    values = list_numbers(signed, codes.device).index_select(0, codes.flatten().int()).view(codes.shape)
    return values.mul_(scale.repeat_interleave(BLOCK_ELEMENTS, dim=1)[:, : codes.shape[1]])


def find_nearest(unit: Float32[Tensor, "*shape"], *, signed: bool) -> UInt8[Tensor, "*shape"]:
    """Return the byte of the nearest of the 256 numbers, for values from -1 to 1.

    A search among 255 borders would take most of the time of a step (docs/log.md). So a table is used: for a value's
    upper 16 bits at most one border remains to be compared.
    """
    least, borders = _nearest(signed, unit.device)
    upper = (unit.view(torch.int32) >> 16).bitwise_and_(0xFFFF)
    codes = least.index_select(0, upper.flatten())
    codes += unit.flatten() >= borders.index_select(0, codes.int())
    return codes.view(unit.shape)


@cache
def _nearest(signed: bool, device: torch.device) -> tuple[UInt8[Tensor, "65536"], Float32[Tensor, "256"]]:
    """Return two tables: the number of borders below all values with the same upper 16 bits, and the borders.

    The first table is indexed by the upper 16 bits. The second one ends with infinity.
    """
    borders = _borders(signed, device)
    upper = torch.arange(1 << 16, dtype=torch.int32, device=device) << 16
    first, last = (
        torch.bucketize(bits.view(torch.float32), borders, right=True) for bits in (upper, upper | ((1 << 16) - 1))
    )
    sizes = (upper & 0x7FFFFFFF).view(torch.float32) <= 1
    assert ((first - last).abs() <= 1)[sizes].all(), "two borders share their upper bits"
    return torch.minimum(first, last).to(torch.uint8), torch.cat([borders, borders.new_tensor([math.inf])])


@cache
def list_numbers(signed: bool, device: torch.device) -> Float32[Tensor, "256"]:
    """Return the 256 numbers that bytes stand for, in rising order.

    They are 0, 1, and numbers in seven decades. Each decade has twice as many numbers as the decade below.
    """
    sizes = []
    for decade in range(7):
        edges = torch.linspace(0.1, 1, 2 ** (decade + (0 if signed else 1)) + 1)
        sizes += (10.0 ** (decade - 6) * (edges[:-1] + edges[1:]) / 2).tolist()
    numbers = sorted([0.0, 1.0, *sizes, *([-size for size in sizes] if signed else [])])
    assert len(numbers) == 256
    return torch.tensor(numbers, device=device)


@cache
def _borders(signed: bool, device: torch.device) -> Float32[Tensor, "255"]:
    numbers = list_numbers(signed, device)
    return (numbers[:-1] + numbers[1:]) / 2
