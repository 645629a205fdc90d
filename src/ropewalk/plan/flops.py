"""Counts arithmetic per token, exactly for the causal mask, document borders and windows.

No other file counts it.

A token attends to the tokens before it in its own document, and in a layer with a window at most to that window.
Utilisation (MFU) is model FLOPs, without recomputation, over the peak of the hardware. Systems that count attention
over the full square and four passes report 1.8 times our figure for the same speed (ALST's 590 TFLOP/s are 333 by this
count).
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Int64

from ropewalk.partition.cost import pairs_before
from ropewalk.plan.trained import count_trained
from ropewalk.recipe.lora import Lora
from ropewalk.shape.model_shape import ModelShape

Recompute = Literal["none", "save_attention", "full"]
Documents = Sequence[int] | Int64[np.ndarray, "documents"]

# Passes over the linear part and over attention, in units of a forward pass. Backward is 2 and 2.5: a flash kernel
# computes the scores again. Recomputation repeats the forward pass of all tensors that were not kept.
FORWARD_PASSES: dict[Recompute, tuple[float, float]] = {"none": (1, 1), "full": (2, 2), "save_attention": (2, 1)}
BACKWARD_LINEAR, BACKWARD_ATTENTION = 2.0, 2.5


@dataclass(frozen=True, slots=True)
class TokenFlops:
    """Floating-point operations of one forward pass per token: matrix products, and attention's two products.

    ``linear`` includes the recurrences of a hybrid, whose work does not grow with the length.
    """

    linear: float
    attention: float
    frozen: float = 0.0
    """The part of ``linear`` in matrices that are not trained; their backward has one product instead of two."""

    @property
    def model(self) -> float:
        """FLOPs of a training step per token, for MFU: without recomputation, and a backward counts as two forwards."""
        return 3 * (self.linear + self.attention) - self.frozen

    @property
    def attention_share(self) -> float:
        return self.attention / (self.linear + self.attention)

    def hardware(self, recompute: Recompute) -> float:
        """FLOPs that the machine executes per token of a training step, with recomputation."""
        linear, attention = FORWARD_PASSES[recompute]
        products = (linear + BACKWARD_LINEAR) * self.linear - self.frozen
        return products + (attention + BACKWARD_ATTENTION) * self.attention

    def seconds(self, recompute: Recompute, *, matmul: float, forward: float, backward: float) -> tuple[float, float]:
        """Seconds per token in matrix products and in attention; the three rates are in FLOP/s."""
        linear, attention = FORWARD_PASSES[recompute]
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
    return TokenFlops(
        linear=2.0 * (dense + shape.vocabulary * shape.width + trained.adapters) + recurrent,
        attention=2.0 * _count_pair_widths(shape, documents) / context_tokens,
        frozen=2.0 * trained.frozen_matrices,
    )


def _count_pair_widths(shape: ModelShape, documents: Int64[np.ndarray, "documents"]) -> float:
    """The sum, over layers and pairs of a query and a key, of the widths of all heads' keys and values."""
    if shape.unequal is None:
        windows = Counter(layer.window_tokens for layer in shape.positions if layer.mixer is None)
        pairs = sum(layers * count_document_pairs(documents, window) for window, layers in windows.items())
        return (shape.query_width + shape.output_width) * pairs
    layers_of = Counter(
        (layer.window_tokens, dim) for layer, dim in zip(shape.positions, shape.rotary_dims, strict=True)
    )
    return sum(
        layers * 2 * shape.heads * head_dim * count_document_pairs(documents, window)
        for (window, head_dim), layers in layers_of.items()
    )


def count_document_pairs(document_tokens: Documents, window_tokens: int | None = None) -> int:
    """The (query, key) pairs of one layer: each token with itself and the earlier tokens of its document and window."""
    return int(pairs_before(np.asarray(document_tokens, dtype=np.int64), window_tokens).sum())


def utilisation(flops: TokenFlops, *, tokens_per_second: float, peak_flops: float) -> float:
    """MFU: model FLOPs per second over the peak of all ranks together."""
    return flops.model * tokens_per_second / peak_flops
