"""Counts arithmetic per token, exactly for the causal mask, document borders and windows.

No other file counts it.

A token attends to the tokens before it in its own document, and in a layer with a window at most to that window.
Utilisation (MFU) is model FLOPs, without recomputation, over the peak of the hardware. Systems that count attention
over the full square and four passes report 1.8 times our figure for the same speed (ALST's 590 TFLOP/s are 333 by this
count).
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Int64

from ropewalk.partition.cost import pairs_before
from ropewalk.plan.trained import count_trained
from ropewalk.recipe.lora import Lora
from ropewalk.shape.alike import has_mixture
from ropewalk.shape.model_shape import ModelShape

Recompute = Literal["none", "save_attention", "full"]
Documents = Sequence[int] | Int64[np.ndarray, "documents"]

# Passes over the linear part and over attention, in units of a forward pass. Backward is 2 and 2.5: a flash kernel
# computes the scores again. Recomputation repeats the forward pass of all tensors that were not kept.
FORWARD_PASSES: dict[Recompute, tuple[float, float]] = {"none": (1, 1), "full": (2, 2), "save_attention": (2, 1)}
BACKWARD_LINEAR, BACKWARD_ATTENTION = 2.0, 2.5


class BlockShare(NamedTuple):
    """What recomputed blocks are of all: of their number, of their products, of attention."""

    blocks: float = 1.0
    linear: float = 1.0
    attention: float = 1.0


def count_passes(recompute: Recompute, share: BlockShare) -> tuple[float, float]:
    """Forward passes over products and over attention, where ``share`` of them runs again."""
    linear, attention = FORWARD_PASSES[recompute]
    return 1 + (linear - 1) * share.linear, 1 + (attention - 1) * share.attention


@dataclass(frozen=True)  # no slots: a search asks for the running sums a hundred thousand times, so they are kept
class TokenFlops:
    """Floating-point operations of one forward pass per token: matrix products, and attention's two products.

    ``linear`` includes the recurrences of a hybrid, whose work does not grow with the length.
    """

    linear: float
    attention: float
    frozen: float = 0.0
    """The part of ``linear`` in matrices that are not trained; their backward has one product instead of two."""
    block_linear: tuple[float, ...] = ()
    """``linear`` of each block, first to last; the head has the rest. Empty: blocks are not told apart."""
    block_attention: tuple[float, ...] = ()
    """``attention`` of each block."""

    @property
    def model(self) -> float:
        """FLOPs of a training step per token, for MFU: without recomputation, and a backward counts as two forwards."""
        return 3 * (self.linear + self.attention) - self.frozen

    @property
    def attention_share(self) -> float:
        return self.attention / (self.linear + self.attention)

    def share_of(self, blocks: int | None) -> BlockShare:
        """What the first ``blocks`` blocks are of all; None is all of them."""
        if blocks is None or blocks >= len(self.block_linear):
            return BlockShare()
        linear, attention = self._sums
        return BlockShare(
            blocks / len(self.block_linear),
            linear[blocks] / linear[-1],
            attention[blocks] / attention[-1] if attention[-1] else 0.0,
        )

    @cached_property
    def _sums(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Entry n of each is of the first n blocks: their products, and their attention."""
        return tuple(accumulate(self.block_linear, initial=0.0)), tuple(accumulate(self.block_attention, initial=0.0))

    def hardware(self, recompute: Recompute, blocks: int | None = None) -> float:
        """FLOPs that the machine executes per token of a training step, with the first ``blocks`` blocks recomputed."""
        linear, attention = count_passes(recompute, self.share_of(blocks))
        products = (linear + BACKWARD_LINEAR) * self.linear - self.frozen
        return products + (attention + BACKWARD_ATTENTION) * self.attention

    def seconds(
        self, recompute: Recompute, blocks: int | None = None, *, matmul: float, forward: float, backward: float
    ) -> tuple[float, float]:
        """Seconds per token in matrix products and in attention; the three rates are in FLOP/s."""
        linear, attention = count_passes(recompute, self.share_of(blocks))
        return (
            ((linear + BACKWARD_LINEAR) * self.linear - self.frozen) / matmul,
            attention * self.attention / forward + BACKWARD_ATTENTION * self.attention / backward,
        )


def token_flops(
    shape: ModelShape,
    context_tokens: int,
    *,
    document_tokens: Documents | None = None,
    lora: Lora | None = None,
) -> TokenFlops:
    """Forward FLOPs per token of sequences of ``context_tokens`` that hold documents of ``document_tokens``.

    ``document_tokens`` None means one document that fills the sequence. Norms, rotations, softmax and the embedding's
    look-up are left out (below 1 %), and so is what context ranks do again to expand received latents. The head is
    counted, tied or not. With ``lora``, the adapters are added, and the frozen weights have a cheaper backward.
    """
    trained = count_trained(shape, lora)
    mlp = (3 if shape.mlp == "gated" else 2) * shape.width * shape.mean_mlp_width
    router = shape.mixtures * shape.width * (shape.experts.count if shape.experts else 0)
    documents = np.asarray((context_tokens,) if document_tokens is None else document_tokens, dtype=np.int64)
    assert documents.sum() <= context_tokens
    inputs = shape.unequal.input_products(shape.width, shape.layers) if shape.unequal else 0
    recurrent = len(shape.recurrent.layers) * shape.recurrent.token_flops if shape.recurrent else 0.0
    dense = shape.attention_products + shape.layers * mlp + router + inputs
    widths = _count_pair_widths(shape, documents)
    return TokenFlops(
        linear=2.0 * (dense + shape.vocabulary * shape.width + trained.adapters) + recurrent,
        attention=2.0 * sum(widths) / context_tokens,
        frozen=2.0 * trained.frozen_matrices,
        block_linear=_count_block_products(shape, trained.adapters),
        block_attention=tuple(2.0 * width / context_tokens for width in widths),
    )


def _count_block_products(shape: ModelShape, adapters: int) -> tuple[float, ...]:
    """Forward FLOPs of one token in each block, beside attention's pairs; ``adapters`` are those of all blocks."""
    matrices = 3 if shape.mlp == "gated" else 2
    found = [0.0] * shape.layers
    for group in shape.alike:
        layer, experts = group[0], shape.experts
        inner = shape.mlp_width * shape.mlp_factor(layer)
        total = 2.0 * adapters / shape.layers
        if experts is not None and has_mixture(shape, layer):
            inner = experts.active_width() + inner * experts.beside
            total += 2.0 * shape.width * experts.count
        total += 2.0 * matrices * shape.width * inner * shape.has_mlp(layer)
        attends, recurs = shape.mixers[layer]
        if shape.recurrent is not None and recurs:
            total += shape.recurrent.token_flops
        if attends:
            total += 2.0 * sum(into * out for into, out in shape.attention_matrices_of(layer).values())
        if shape.unequal is not None:
            total += 2.0 * shape.unequal.input_products(shape.width, 1)
        for each in group:
            found[each] = total
    return tuple(found)


def _count_pair_widths(shape: ModelShape, documents: Int64[np.ndarray, "documents"]) -> list[float]:
    """Of each layer the sum, over pairs of a query and a key, of the widths of all heads' keys and values."""
    windows = {layer.window_tokens for layer in shape.positions if layer.mixer is None}
    pairs = {window: count_document_pairs(documents, window) for window in windows}
    both = zip(shape.positions, _list_pair_widths(shape), strict=True)
    return [width * pairs[each.window_tokens] if width else 0 for each, width in both]


def _list_pair_widths(shape: ModelShape) -> list[int]:
    """Of each layer the widths of all heads' keys and values; 0 without attention."""
    if shape.unequal is None:
        return [0 if each.mixer else shape.query_width + shape.output_width for each in shape.positions]
    return [2 * shape.heads * head_dim for head_dim in shape.rotary_dims]


def count_pair_flops(shape: ModelShape) -> dict[int | None, float]:
    """Forward FLOPs of one query with one key, by the window of the layers where the query sees it; None is without."""
    found: defaultdict[int | None, float] = defaultdict(float)
    for each, width in zip(shape.positions, _list_pair_widths(shape), strict=True):
        if width:
            found[each.window_tokens] += 2.0 * width
    return dict(found)


def count_document_pairs(document_tokens: Documents, window_tokens: int | None = None) -> int:
    """The (query, key) pairs of one layer: each token with itself and the earlier tokens of its document and window."""
    return int(pairs_before(np.asarray(document_tokens, dtype=np.int64), window_tokens).sum())


def utilisation(flops: TokenFlops, *, tokens_per_second: float, peak_flops: float) -> float:
    """MFU: model FLOPs per second over the peak of all ranks together."""
    return flops.model * tokens_per_second / peak_flops
