"""How many bytes a rank holds at its fullest moment: states, kept activations, and the larger of block and loss.

The formulas were fitted and checked on four published runs of Llama-3.1-8B on one H200 (ArcticTraining's run-h200-sp1
recipes: 65k, 300k, 650k and 1.2M tokens); they fall 3 to 5 GB short of what was reported, a fixed overhead. The
surprise: without a chunked loss the logits are the largest thing on the card, 14 bytes each.
"""

from dataclasses import dataclass

from ropewalk.plan.flops import Recompute
from ropewalk.shape.model_shape import ModelShape

STATE_BYTES = 16.0
"""Per parameter: fp32 master, gradient and two moments; also bf16 weight and gradient with fp32 master and moments."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of one rank. ``block`` and ``loss`` are never alive together."""

    states: float
    gathered: float
    kept: float
    block: float
    loss: float

    @property
    def peak_bytes(self) -> float:
        return self.states + self.gathered + self.kept + max(self.block, self.loss)


def estimate_memory(
    shape: ModelShape,
    local_tokens: int,
    *,
    ranks: int,
    recompute: Recompute,
    element_bytes: int = 2,
    loss_chunk_tokens: int = 1024,
    state_bytes: float = STATE_BYTES,
) -> Memory:
    """Memory of one rank that holds ``local_tokens`` of a micro-batch, with states sharded over ``ranks``."""
    kept = checkpoint_bytes(shape, local_tokens, element_bytes=element_bytes)
    if recompute == "none":
        kept = shape.layers * stored_block_bytes(shape, local_tokens, element_bytes=element_bytes)
    elif recompute == "all_but_attention":
        kept += kept_attention_bytes(shape, local_tokens, element_bytes=element_bytes)
    return Memory(
        states=state_bytes * shape.parameters / ranks,
        gathered=gathered_bytes(shape, element_bytes=element_bytes) if ranks > 1 else 0.0,
        kept=kept,
        block=mlp_bytes(shape, local_tokens, element_bytes=element_bytes),
        loss=chunked_loss_bytes(shape, min(loss_chunk_tokens, local_tokens)),
    )


def checkpoint_bytes(shape: ModelShape, local_tokens: int, *, element_bytes: int = 2) -> float:
    """Inputs of all layers, kept when everything else is recomputed."""
    return float(shape.layers * local_tokens * shape.width * element_bytes)


def offloaded_checkpoint_bytes(shape: ModelShape, local_tokens: int, *, element_bytes: int = 2) -> float:
    """What stays on the device when layer inputs travel to host memory: two layers in flight."""
    return 2.0 * local_tokens * shape.width * element_bytes


def kept_attention_bytes(shape: ModelShape, local_tokens: int, *, element_bytes: int = 2) -> float:
    """Attention's outputs and log-sum-exps of all layers, for recomputing all but attention."""
    return float(shape.layers * local_tokens * (shape.query_width * element_bytes + shape.heads * 4))


def stored_block_bytes(shape: ModelShape, local_tokens: int, *, element_bytes: int = 2) -> float:
    """What autograd keeps of one layer when nothing is recomputed.

    Three tensors per norm (input, normalised, scaled), rotated queries and keys, values, output, log-sum-exp, and four
    of the MLP's width. Counted on transformers' Llama and Qwen3, whose norms keep their input in float32 whatever the
    dtype; those of Olmo and Gemma keep more of it, so in bfloat16 a layer of theirs is up to 15 % larger than this.
    """
    turned = shape.query_width + shape.kv_width
    normed = shape.block_norms * shape.width + (turned if shape.qk_norm != "none" else 0)
    # The third tensor of a query's or key's norm is the one that is rotated and kept as such.
    elements = 2 * normed + shape.block_norms * shape.width + 2 * turned + 4 * shape.mlp_width
    return float(local_tokens * (elements * element_bytes + normed * (4 - element_bytes) + shape.heads * 4))


def mlp_bytes(shape: ModelShape, local_tokens: int, *, element_bytes: int = 2) -> float:
    """The fullest moment of one layer's backward: six tensors of the MLP's width."""
    return 6.0 * local_tokens * shape.mlp_width * element_bytes


def tiled_bytes(shape: ModelShape, local_tokens: int, *, element_bytes: int = 2) -> float:
    """The same moment with a tiled MLP and offloaded checkpoints: 13.5 tensors of the model's width, a fit."""
    return 13.5 * local_tokens * shape.width * element_bytes


def whole_loss_bytes(shape: ModelShape, local_tokens: int) -> float:
    """Logits of all tokens at once: bf16 and three copies in fp32."""
    return 14.0 * local_tokens * shape.vocabulary


def chunked_loss_bytes(shape: ModelShape, chunk_tokens: int) -> float:
    """Logits of one chunk, and the head's gradient in fp32."""
    return 10.0 * chunk_tokens * shape.vocabulary + 4.0 * shape.vocabulary * shape.width


def gathered_bytes(shape: ModelShape, *, element_bytes: int = 2) -> float:
    """Whole weights that are alive at once while states are sharded: this layer, the next one, and the head."""
    return float((2 * shape.block_parameters + shape.vocabulary * shape.width) * element_bytes)
