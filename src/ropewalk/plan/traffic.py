"""How many bytes a rank sends: for attention over context ranks, and for sharded states.

Per layer and pass, of one packed sequence. The surprise: with four query heads per key head, moving keys and values
costs less than moving heads up to four ranks, and more from eight on.
"""

from dataclasses import dataclass
from typing import Literal

from ropewalk.plan.trained import count_trained
from ropewalk.recipe.lora import Lora
from ropewalk.shape.model_shape import ModelShape

Exchange = Literal["ring", "all_gather", "needed", "heads"]
_GRADIENT_BYTES = 4  # key and value gradients travel in fp32, as sums of many small parts must


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes that one rank sends."""

    forward: float
    backward: float

    def training_bytes(self, *, forwards: int = 1) -> float:
        """Of a training step, whose forward runs twice where activations are recomputed."""
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
    """Traffic of one layer for a sequence cut over ``ranks``.

    ``needed_share`` is the share of other ranks' key rows that a rank needs, which the partition knows; ``needed``
    sends only those. Backward sends keys and values again, and their gradients home. ``heads`` copies
    key heads where there are fewer than ranks.
    """
    others = (ranks - 1) / ranks
    if exchange == "heads":
        copied_width = max(shape.kv_heads, ranks) * shape.head_dim
        moved = others / ranks * sequence_tokens * 2 * (shape.query_width + copied_width) * element_bytes
        return Traffic(moved, moved)
    rows = sequence_tokens * 2 * shape.kv_width * (needed_share if exchange == "needed" else 1.0)
    # A ring's gradients take one hop more than its keys, the one that brings them home.
    gradient_rows = rows * (1.0 if exchange == "ring" and ranks > 1 else others)
    return Traffic(others * rows * element_bytes, others * rows * element_bytes + gradient_rows * _GRADIENT_BYTES)


def state_traffic(
    shape: ModelShape,
    *,
    ranks: int,
    replicas: int = 1,
    element_bytes: int = 2,
    gathers: int = 2,
    lora: Lora | None = None,
) -> float:
    """Bytes per rank and micro-batch of sharded states: weights gathered ``gathers`` times, fp32 gradients.

    With ``replicas`` among the ranks a shard's gradient also goes around those that hold it, twice.
    """
    trained, shards = count_trained(shape, lora), ranks // replicas
    gathered = gathers * element_bytes * (shape.parameters + trained.adapters)
    gradients = _GRADIENT_BYTES * trained.parameters
    return (shards - 1) / shards * (gathered + gradients) + 2 * (replicas - 1) / replicas * gradients / shards
