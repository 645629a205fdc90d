"""How many bytes a rank holds at its fullest moment: states, kept activations, and what one block or the loss adds.

A step has three such moments: the loss, when everything is kept and no gradient stands; the backward of the last
block, when everything is kept and a block runs again; that of the first block, when little is kept and all gradients
stand. The whole is held against the allocator's peak in tests/train/test_memory.py; pieces of it against published
runs of Llama 3.1 8B on one H200. The surprise: without a chunked loss the logits are the largest thing on the card,
14 bytes each.
"""

from dataclasses import dataclass

from ropewalk.plan.savings import Savings
from ropewalk.shape.model_shape import ModelShape

MASTER_BYTES, GRADIENT_BYTES = 12.0, 4.0
"""Per parameter: fp32 master and two moments; fp32 gradient, which stands from backward to the optimizer's step."""
WHOLE_BYTES = 64 << 20
"""Float32 weights that are gathered at once, not block by block: two collectives a pass instead of eleven with three
blocks, which is a sixth of the CPU time of a step of 512 tokens with 1.1M parameters (docs/train.md)."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of one rank. Of ``loss``, ``last_block`` and ``first_block`` one is alive at a time.

    ``kept`` is what all blocks keep for the backward pass; the first block's moment has only its own share of it, which
    is why ``kept`` is not added there.
    """

    states: float
    gathered: float
    kept: float
    loss: float
    last_block: float
    first_block: float

    @property
    def peak_bytes(self) -> float:
        return self.states + self.gathered + max(self.kept + max(self.loss, self.last_block), self.first_block)


def estimate_memory(
    shape: ModelShape,
    local_tokens: int,
    *,
    ranks: int,
    savings: Savings,
    element_bytes: int = 2,
    loss_chunk_tokens: int = 1024,
) -> Memory:
    """Memory of one rank that holds ``local_tokens`` of a micro-batch, with states sharded over ``ranks``."""
    kept = kept_bytes(shape, local_tokens, savings=savings, element_bytes=element_bytes)
    block = block_bytes(shape, local_tokens, savings=savings, element_bytes=element_bytes)
    shard = 0.0 if savings.states_on_host else shape.parameters / ranks
    head_gradient = GRADIENT_BYTES * shape.vocabulary * shape.width
    row = row_bytes(shape, local_tokens, element_bytes=element_bytes)
    return Memory(
        states=MASTER_BYTES * shard,
        gathered=gathered_bytes(shape, element_bytes=element_bytes),
        kept=kept,
        loss=row + chunked_loss_bytes(shape, min(loss_chunk_tokens, local_tokens), element_bytes=element_bytes),
        last_block=row + head_gradient + block,
        first_block=row + kept / shape.layers + block + GRADIENT_BYTES * shard,
    )


def kept_bytes(shape: ModelShape, local_tokens: int, *, savings: Savings, element_bytes: int = 2) -> float:
    """What all blocks keep on the device between forward and backward."""
    if savings.recompute == "none":
        return shape.layers * saved_block_bytes(shape, local_tokens, savings=savings, element_bytes=element_bytes)
    inputs = offloaded_checkpoint_bytes if savings.offload else checkpoint_bytes
    kept = inputs(shape, local_tokens, element_bytes=element_bytes)
    if savings.recompute == "save_attention":
        kept += kept_attention_bytes(shape, local_tokens, element_bytes=element_bytes)
    return kept


def block_bytes(shape: ModelShape, local_tokens: int, *, savings: Savings, element_bytes: int = 2) -> float:
    """What the backward of one block adds to what is kept: itself, where it runs again, and gradients on their way."""
    again = 0.0
    if savings.recompute != "none":
        again = saved_block_bytes(shape, local_tokens, savings=savings, element_bytes=element_bytes)
    if savings.recompute == "save_attention":  # its results are those that were kept
        again -= kept_attention_bytes(shape, local_tokens, element_bytes=element_bytes) / shape.layers
    if savings.mlp_tile_tokens is None or local_tokens <= savings.mlp_tile_tokens:
        return again + _MLP_MOVING * local_tokens * shape.mlp_width * element_bytes
    weights = 3 * shape.width * shape.mlp_width
    tile = (4 + _MLP_MOVING) * savings.mlp_tile_tokens * shape.mlp_width * element_bytes
    return again + tile + weights * (4 + element_bytes)


_MLP_MOVING = 1
"""Tensors of the MLP's width that its backward adds to the four that were stored, each of which is freed when used."""


def saved_block_bytes(shape: ModelShape, local_tokens: int, *, savings: Savings, element_bytes: int = 2) -> float:
    """What one block's forward saves: everything, or with tiles all but what is inside the MLP."""
    stored = stored_block_bytes(shape, local_tokens, element_bytes=element_bytes)
    if savings.mlp_tile_tokens is not None and local_tokens > savings.mlp_tile_tokens:
        stored -= 4.0 * local_tokens * shape.mlp_width * element_bytes
    return stored


def row_bytes(shape: ModelShape, local_tokens: int, *, element_bytes: int = 2) -> float:
    """What stands for the row as a whole: the last hidden state, its norm's tensors, its gradient."""
    return float(local_tokens * shape.width * (3 * element_bytes + 4))


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


def chunked_loss_bytes(shape: ModelShape, chunk_tokens: int, *, element_bytes: int = 2) -> float:
    """Logits of one chunk in the products' own type, a chunk's part of the head's gradient if that is not float32, and
    the head's gradient; blocks of float32 logits are gone before there is a part, and smaller."""
    logits = element_bytes * chunk_tokens * shape.vocabulary
    part = element_bytes * shape.vocabulary * shape.width if element_bytes < 4 else 0
    return float(logits + part + 4 * shape.vocabulary * shape.width)


def gathered_bytes(shape: ModelShape, *, element_bytes: int = 2) -> float:
    """Whole weights that are alive at once, on one rank too: all of a small model; else two layers, and the head."""
    if 4 * shape.parameters <= WHOLE_BYTES:
        return float(shape.parameters * element_bytes)
    return float((2 * shape.block_parameters + shape.vocabulary * shape.width) * element_bytes)
