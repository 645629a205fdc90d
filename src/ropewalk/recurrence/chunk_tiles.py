"""Chunks are computed a few at a time on a CPU, so that what lies between two products stays in its cache."""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

_MATRICES = 64
"""Of one tile on a CPU, in all heads: a matrix of 64 tokens by 64 takes 16 KiB in float32, and a tile has about two."""


def tile_chunks(chunks: int, heads: int, device: torch.device) -> Iterator[slice]:
    """Slices of the chunks; one on a GPU, where each call costs more than memory does."""
    step = max(1, _MATRICES // heads) if device.type == "cpu" else max(1, chunks)
    return (slice(start, min(start + step, chunks)) for start in range(0, chunks, step))


def accumulate_product(
    total: Float[Tensor, "_ rows columns"],
    left: Float[Tensor, "_ rows inner"],
    right: Float[Tensor, "_ inner columns"],
    *,
    sign: int = 1,
) -> None:
    """Add products to ``total``, in place; torch's counter of operations knows this call, and not ``baddbmm_``."""
    torch.baddbmm(total, left, right, alpha=sign, out=total)
