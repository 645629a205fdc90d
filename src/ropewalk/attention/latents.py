"""Keys and values that travel between ranks as latents, and are made where they arrive (MLA).

A token's keys and values of all heads follow from one vector by one matrix. DeepSeek V3 needs 576 numbers of a token
instead of 40,960. So ranks exchange these vectors and multiply by the matrix themselves. In the backward each received
block is expanded again, its gradient goes through the expansion, and the gradients of the latents return to their
owners. What the matrix gets from received tokens is a gradient on this rank, summed over ranks like any other.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ropewalk.attention.exchange import Block


@dataclass(frozen=True, slots=True)
class Latents:
    """A rank's own latents, with the way from latents of any tokens to their keys and values.

    ``expand`` returns keys and values side by side, in the form of a ``Block``: values have the keys' width.
    ``trained`` are the weights in ``expand`` that have gradients; it is asked again in the backward, because a sharded
    weight is then gathered anew.
    """

    own: Float[Tensor, "local 1 sent_width"]
    expand: Callable[[Float[Tensor, "received 1 sent_width"]], Block]
    trained: Callable[[], Sequence[Float[Tensor, "..."]]]


class Expansion:
    """Expands the received latents of one backward pass, block by block, and differentiates each expansion."""

    def __init__(self, latents: Latents) -> None:
        self._latents = latents
        self._weights = latents.trained()
        # Sums over blocks are in float32, as one product over all tokens would be.
        self._sums = [
            torch.zeros_like(each, dtype=torch.promote_types(each.dtype, torch.float32)) for each in self._weights
        ]

    def differentiate(
        self, blocks: Iterator[Block], run: Callable[[Iterator[Block]], Iterator[Block]]
    ) -> Iterator[Float[Tensor, "received 1 sent_width"]]:
        """Gradients of latents; ``run`` makes the gradients of expanded blocks from these, one after the other."""
        return map(self._close, run(map(self._open, blocks)))

    def weight_gradients(self) -> list[Float[Tensor, "..."]]:
        """The gradients of the weights from all blocks."""
        return [total.to(weight.dtype) for total, weight in zip(self._sums, self._weights, strict=True)]

    def _open(self, block: Float[Tensor, "received 1 sent_width"]) -> Block:
        with torch.enable_grad():
            self._leaf = block.detach().requires_grad_()
            self._expanded = self._latents.expand(self._leaf)
        return self._expanded.detach()

    def _close(self, gradient: Block) -> Float[Tensor, "received 1 sent_width"]:
        outward = gradient.to(self._expanded.dtype)
        d_leaf, *slopes = torch.autograd.grad(self._expanded, [self._leaf, *self._weights], outward)
        for total, slope in zip(self._sums, slopes, strict=True):
            total += slope
        del self._expanded
        return d_leaf.to(gradient.dtype)
