"""The bytes that a rank sends: for attention and recurrent layers over context ranks, and for sharded states.

Attention is counted per layer and pass, for one packed sequence. With four query heads per key head, moving keys and
values costs less than moving heads up to four ranks, and more from eight ranks on.
"""

import math
from dataclasses import dataclass
from typing import Literal

from ropewalk.partition.partition import Partition
from ropewalk.partition.recurrent_cost import SummaryPrice, count_state_bytes
from ropewalk.plan.memory import gathers_whole
from ropewalk.plan.trained import count_trained
from ropewalk.recipe.lora import Lora
from ropewalk.shape.model_shape import ModelShape

Exchange = Literal["ring", "all_gather", "needed_kv", "heads"]
_GRADIENT_BYTES = 4  # of what is summed on its way: weights' gradients, and keys' in a ring


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes that one rank sends."""

    forward: float
    backward: float

    def training_bytes(self, *, forwards: int = 1) -> float:
        """Bytes of a training step. ``forwards`` is 2 if activations are recomputed."""
        return forwards * self.forward + self.backward


def attention_traffic(
    shape: ModelShape,
    sequence_tokens: int,
    *,
    ranks: int,
    exchange: Exchange,
    element_bytes: int = 2,
    needed_share: float = 1.0,
) -> Traffic:
    """Traffic of one layer for a sequence that is cut over ``ranks`` ranks.

    ``needed_share`` is the share of other ranks' keys that a rank needs; it comes from the partition. The exchange
    ``needed_kv`` sends only these. The backward sends keys and values again, and their gradients back to their ranks.
    ``heads`` copies key heads if there are fewer heads than ranks. Latents travel in place of keys and values, but not
    with ``heads``.
    """
    others = (ranks - 1) / ranks
    if exchange == "heads":
        copied_heads, both_widths = math.lcm(shape.kv_heads, ranks), shape.head_dim + shape.value_dim
        moved = others / ranks * sequence_tokens * (shape.heads + copied_heads) * both_widths * element_bytes
        return Traffic(moved, moved)
    rows = sequence_tokens * shape.sent_width * (needed_share if exchange == "needed_kv" else 1.0)
    # In a ring the first hop of a block's gradients begins one rank after its owner, and the last one ends there: as
    # many hops as the block itself makes.
    gradient_bytes = count_gradient_bytes(exchange, element_bytes)
    return Traffic(others * rows * element_bytes, others * rows * (element_bytes + gradient_bytes))


def count_gradient_bytes(exchange: str, element_bytes: int) -> int:
    """Bytes of one number of keys' gradients on their way: as of keys, but in a ring sums travel, in float32."""
    return _GRADIENT_BYTES if exchange == "ring" else element_bytes


def recurrent_traffic(partition: Partition, price: SummaryPrice) -> Traffic:
    """Traffic of one recurrent layer, of the busiest rank: summaries in fp32, and rows before segments.

    It depends on the cuts of ``partition`` and not on its length. The backward sends gradients of as many bytes back.
    """
    moved = count_state_bytes(partition.segments, partition.ranks, price.layers, row_bytes=price.row_bytes)
    busiest = float(moved.sum(0).max())
    return Traffic(busiest, busiest)


def state_traffic(
    shape: ModelShape,
    *,
    ranks: int,
    replicas: int = 1,
    element_bytes: int = 2,
    lora: Lora | None = None,
) -> float:
    """Bytes per rank and micro-batch for sharded states, those between replicas included."""
    shards = ranks // replicas
    inside = shard_traffic(shape, shards=shards, element_bytes=element_bytes, lora=lora)
    return inside + replica_traffic(shape, shards=shards, replicas=replicas, lora=lora)


def shard_traffic(shape: ModelShape, *, shards: int, element_bytes: int = 2, lora: Lora | None = None) -> float:
    """Bytes per rank and micro-batch within a group of ``shards`` ranks: weights, and float32 gradients.

    A block's weights are gathered for the forward and for the backward. The embedding, the last norm and the head stay
    gathered between the two, and so does all of a model that is gathered as one unit.
    """
    trained = count_trained(shape, lora)
    weights = shape.parameters + trained.adapters
    root = shape.vocabulary * shape.width * (1 if shape.tied else 2) + shape.norm_parameters
    again = 0 if gathers_whole(shape, trained) else weights - root
    gathered = element_bytes * (weights + again)
    return (shards - 1) / shards * (gathered + _GRADIENT_BYTES * trained.parameters)


def replica_traffic(shape: ModelShape, *, shards: int, replicas: int, lora: Lora | None = None) -> float:
    """Bytes per rank and micro-batch between ``replicas`` ranks that hold a shard: its gradient, twice around."""
    gradients = _GRADIENT_BYTES * count_trained(shape, lora).parameters
    return 2 * (replicas - 1) / replicas * gradients / shards
