"""The one place where arithmetic is counted: causal-true, document-true, per token.

A token attends to half of its row on average, and to its own document only. Utilisation (MFU) is model FLOPs, which
count no recomputation, over what the hardware could do. The surprise: systems that count attention over the full square
and four passes report 1.8 times our figure for the same speed (ALST's 590 TFLOP/s are 333 by this count).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ropewalk.shape.model_shape import ModelShape

Recompute = Literal["none", "full", "all_but_attention"]

# Passes over the linear part and over attention, in forward units. Backward is 2 and 2.5: a flash kernel computes
# the scores again. Recomputation repeats the forward of what was not kept.
_PASSES: dict[Recompute, tuple[float, float]] = {"none": (1, 1), "full": (2, 2), "all_but_attention": (2, 1)}
BACKWARD_LINEAR, BACKWARD_ATTENTION = 2.0, 2.5


@dataclass(frozen=True, slots=True)
class TokenFlops:
    """Floating-point operations of one forward pass per token: matrix products, and attention's two."""

    linear: float
    attention: float

    @property
    def model(self) -> float:
        """Of a training step per token, nothing recomputed, backward counted as two forwards: for MFU."""
        return 3 * (self.linear + self.attention)

    @property
    def attention_share(self) -> float:
        return self.attention / (self.linear + self.attention)

    def hardware(self, recompute: Recompute) -> float:
        """What the machine really does per token of a training step."""
        linear, attention = _PASSES[recompute]
        return (linear + BACKWARD_LINEAR) * self.linear + (attention + BACKWARD_ATTENTION) * self.attention

    def seconds(self, recompute: Recompute, *, matmul: float, forward: float, backward: float) -> tuple[float, float]:
        """Seconds per token in matrix products and in attention, at three rates in FLOP/s."""
        linear, attention = _PASSES[recompute]
        return (
            (linear + BACKWARD_LINEAR) * self.linear / matmul,
            attention * self.attention / forward + BACKWARD_ATTENTION * self.attention / backward,
        )


def token_flops(shape: ModelShape, context_tokens: int, *, pair_share: float = 1.0) -> TokenFlops:
    """Forward FLOPs per token of rows of ``context_tokens``; ``pair_share`` as ``share_of_pairs`` gives it.

    Norms, rotations, softmax and embeddings' look-up are left out (below 1 %); the head is counted, tied or not.
    """
    block = 2 * shape.width * (shape.query_width + shape.kv_width) + 3 * shape.width * shape.mlp_width
    return TokenFlops(
        linear=2.0 * (shape.layers * block + shape.vocabulary * shape.width),
        attention=2.0 * context_tokens * pair_share * shape.query_width * shape.layers,
    )


def share_of_pairs(document_tokens: Sequence[int], context_tokens: int) -> float:
    """The share of a row's causal pairs that lie within a document: sum of squared lengths over the row's square."""
    assert sum(document_tokens) <= context_tokens
    return sum(length**2 for length in document_tokens) / context_tokens**2


def utilisation(flops: TokenFlops, *, tokens_per_second: float, peak_flops: float) -> float:
    """MFU: model FLOPs per second over the peak of all ranks together."""
    return flops.model * tokens_per_second / peak_flops
