"""The peak memory of a rank in bytes: states, kept activations, and the extra memory of one block or of the loss.

A step has three candidates for the peak. At the loss, all activations are kept and there is no gradient yet. In the
backward of the last block, all activations are kept and one block runs again. In the backward of the first block, few
activations are kept and all gradients exist. Where only the first blocks are recomputed there are two more, at the
border of the two kinds: the last block that keeps everything needs no second run, and when the one before it runs
again, the memory of all that kept everything is free. Between these, the peak is a straight line. With several ranks
the last reduction comes after the first block, of embedding and head, when no block is gathered any more.

tests/train/test_memory.py compares the total with the allocator's peak. Parts of it are compared with published runs of
Llama 3.1 8B on one H200. Without a chunked loss, the logits are the largest tensor on the card: 14 bytes each.
"""

from dataclasses import dataclass

from ropewalk.plan.block_memory import BlockMemory, ReceivedKeys, copied_bytes
from ropewalk.plan.savings import Savings
from ropewalk.plan.trained import Trained, count_trained
from ropewalk.recipe.lora import Lora
from ropewalk.shape.model_shape import ModelShape

MASTER_BYTES, MOMENT_BYTES, GRADIENT_BYTES = 4.0, 8.0, 4.0
"""Bytes per parameter: the fp32 master; for a trained parameter also two moments and a gradient.

The gradient exists from the backward to the optimizer's step.
"""
_EIGHT_BIT_BYTES = 2 * (1 + 4 / 256)
"""Bytes per parameter of two moments in 8 bits: one byte each, and an fp32 scale for 256 of them."""
WHOLE_BYTES = 64 << 20
"""Float32 weights up to this size are gathered at once, not block by block.

With three blocks that makes two collectives a pass instead of eleven, which saves a sixth of the CPU time of a step of
512 tokens with 1.1M parameters (docs/train.md).
"""
UNIT_BYTES = 8 << 30
"""The most bytes of float32 weights of a block that is gathered as one unit.

While a unit runs, the next one is gathered already, so two of them take memory. In a larger block the experts are a
unit of their own. What lies between the experts of two layers is small, so only one layer's experts are whole at a
time. The price: a recomputed block gathers its experts once more."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of one rank. Only one of ``loss``, ``last_block``, ``border``, ``first_block`` and ``root`` exists at once.

    ``kept`` is the memory that all blocks keep for the backward pass. ``border`` and ``first_block`` already contain
    the part of it that is left then, so ``kept`` is not added there.
    """

    states: float
    gathered: float
    kept: float
    loss: float
    last_block: float
    first_block: float
    border: float = 0.0
    """As ``first_block``, of the first block that keeps everything and of the one before, which is recomputed."""
    root: float = 0.0
    """Gradients of embedding, last norm and head as they are reduced, beside all others; nothing is gathered then."""
    host: float = 0.0
    """What waits in pinned host memory between forward and backward, and states on the host; not a part of the peak."""

    @property
    def peak_bytes(self) -> float:
        moment = max(self.kept + max(self.loss, self.last_block), self.first_block, self.border)
        return self.states + max(self.gathered + moment, self.root)


def estimate_memory(
    shape: ModelShape,
    local_tokens: int,
    *,
    ranks: int,
    savings: Savings,
    element_bytes: int = 2,
    loss_chunk_tokens: int = 1024,
    lora: Lora | None = None,
    received: ReceivedKeys | None = None,
) -> Memory:
    """Memory of one rank that holds ``local_tokens`` tokens of a micro-batch, with states sharded over ``ranks``.

    Where context ranks share a sequence, attention holds ``received`` of the others' keys at once, and recurrent layers
    sum up segments, and keep more for it; None where none share.
    """
    trained = count_trained(shape, lora)
    blocks = BlockMemory(shape, local_tokens, savings, element_bytes, lora, received)
    again, count, run, moving = blocks.kept_by_again(), blocks.again, blocks.second_run(), blocks.at_work()
    kept, on_device = again + blocks.kept_by_rest(), 0.0 if savings.states_on_host else 1 / ranks
    head_gradient = GRADIENT_BYTES * shape.vocabulary * shape.width * trained.head
    row, chunk = row_bytes(shape, local_tokens, element_bytes=element_bytes), min(loss_chunk_tokens, local_tokens)
    loss = chunked_loss_bytes(shape, chunk, element_bytes=element_bytes, head_is_trained=trained.head)
    weights, moment_bytes = shape.parameters + trained.adapters, _EIGHT_BIT_BYTES if savings.eight_bit else MOMENT_BYTES
    is_whole = gathers_whole(shape, trained)
    # With several ranks the last gather's flat buffer lasts beside its weights until the forward ends, with the loss in
    # it. Gradients of a unit exist whole, and beside them the flat float32 buffer of the reduction before: none before
    # the last block.
    unit = weights if is_whole else shape.block_parameters + trained.adapters / shape.layers
    own_gradients = min(unit, trained.parameters) * element_bytes * (ranks > 1)
    reduced = own_gradients + min(unit, trained.parameters) * GRADIENT_BYTES * (not is_whole) * (ranks > 1)
    state_bytes = MASTER_BYTES * weights + moment_bytes * trained.parameters
    copied = copied_bytes(shape, local_tokens, savings=savings, element_bytes=element_bytes, pinned=True)
    own = again / count if count else kept / shape.layers
    border = 0.0
    if 0 < count < shape.layers:
        # Of the head's gradient a rank holds all until the backward ends, of a block's its shard.
        one_unit, done = is_whole and ranks > 1, (shape.layers - count + 1) / shape.layers
        gradients = head_gradient * (1 - on_device) + GRADIENT_BYTES * on_device * (
            shape.vocabulary * shape.width * trained.head * (1 - done) + trained.parameters * done
        )
        flat = row + moving + (0.0 if one_unit else gradients + reduced)
        border = again + flat + max(run, blocks.saved(count))
    return Memory(
        states=state_bytes * on_device,
        gathered=gathered_bytes(shape, element_bytes=element_bytes, trained=trained),
        kept=kept,
        loss=row + loss + element_bytes * unit * (ranks > 1),
        last_block=row + head_gradient + moving + run * (count == shape.layers) + (0.0 if is_whole else own_gradients),
        first_block=row
        + own
        + moving
        + run
        + reduced
        + (0.0 if is_whole and ranks > 1 else GRADIENT_BYTES * trained.parameters * on_device),
        border=border,
        root=_root_bytes(shape, trained, on_device, element_bytes=element_bytes) * (ranks > 1 and not is_whole),
        host=copied + (state_bytes + GRADIENT_BYTES * trained.parameters) / ranks * savings.states_on_host,
    )


def _root_bytes(shape: ModelShape, trained: Trained, on_device: float, *, element_bytes: int) -> float:
    """Bytes when the gradients of the root unit are reduced: themselves, a flat float32 buffer, and all others' shards.

    ``on_device`` is the share of a shard that is on the device.
    """
    root = shape.vocabulary * shape.width * (1 if shape.tied else 2) + shape.norm_parameters
    own = min(root, trained.whole)
    return own * (element_bytes + GRADIENT_BYTES) + (trained.parameters - own) * GRADIENT_BYTES * on_device


def row_bytes(shape: ModelShape, local_tokens: int, *, element_bytes: int = 2) -> float:
    """Bytes of tensors outside the blocks: the last hidden state, its norm's tensors and its gradient."""
    return float(local_tokens * shape.width * (3 * element_bytes + 4))


def chunked_loss_bytes(
    shape: ModelShape, chunk_tokens: int, *, element_bytes: int = 2, head_is_trained: bool = True
) -> float:
    """Bytes of one chunk of the loss: its logits in the dtype of the products, and the gradient of a trained head.

    If that dtype is not float32, a chunk's own part of the head's gradient is added, or a block of float32 logits where
    that is larger: it is freed before that part is made.
    """
    logits, head = element_bytes * chunk_tokens * shape.vocabulary, shape.vocabulary * shape.width * head_is_trained
    block = min(4 * chunk_tokens * shape.vocabulary, _LOSS_BLOCK_BYTES)
    return float(logits + (max(element_bytes * head, block) if element_bytes < 4 else 0) + 4 * head)


_LOSS_BLOCK_BYTES = 4 << 20
"""Of float32 logits at a time on a CPU; a GPU takes 64 MiB, which the head of any model for a GPU exceeds."""


def gathered_bytes(shape: ModelShape, *, element_bytes: int = 2, trained: Trained | None = None) -> float:
    """Bytes of the gathered weights that exist at once, on one rank too.

    They are all weights of a small model, and else two layers, the head and, where it has a weight of its own, the
    embedding; of layers above ``UNIT_BYTES`` the experts of one.
    """
    adapters = trained.adapters if trained else 0
    if gathers_whole(shape, trained):
        return float((shape.parameters + adapters) * element_bytes)
    blocks = 2 * (shape.block_parameters + adapters / shape.layers)
    if shape.experts is not None and 4 * shape.block_parameters > UNIT_BYTES:
        blocks -= shape.experts.own_parameters(shape.width)
    root = shape.vocabulary * shape.width * (1 if shape.tied else 2)  # gathered from the forward to the backward's end
    return float((blocks + root) * element_bytes)


def gathers_whole(shape: ModelShape, trained: Trained | None = None) -> bool:
    """Whether all weights are one unit, which is gathered and reduced at once."""
    return 4 * (shape.parameters + (trained.adapters if trained else 0)) <= WHOLE_BYTES
