"""The bytes of a rank's blocks: tensors kept for the backward, those of a second run, and gradients in transit.

The first blocks are recomputed and the others are not (``Savings.recompute_blocks``): the last block's backward comes
first, so what the last blocks keep is free again when a recomputed block makes its tensors anew. Layers that differ in
size are counted one by one.
"""

from dataclasses import dataclass

from ropewalk.plan.layer_sums import LayerSums, sum_layers
from ropewalk.plan.savings import Savings
from ropewalk.plan.trained import kept_mlp_tensors
from ropewalk.recipe.lora import Lora
from ropewalk.shape.model_shape import ModelShape

_MLP_TENSORS = 5
"""Tensors of the MLP's width at the peak of its backward; a stored tensor is freed after its use."""

_RECEIVED_TENSORS = 3
"""Of the width of received keys and values: themselves, their gradients, and both gradients side by side."""

_SUM_BYTES = 4
"""Of the sum of received keys' gradients, in float32."""


@dataclass(frozen=True, slots=True)
class ReceivedKeys:
    """What a rank holds at once of the others' keys in a layer's attention, in tokens with all key heads.

    ``ring`` says that they are one block of several, which go from rank to rank.
    """

    tokens: float
    ring: bool = False
    kept_tokens: float = 0.0
    """Those that each layer without recomputation keeps from its forward to its backward."""
    ulysses_degree: int = 1
    """The ranks that share heads."""


@dataclass(frozen=True, slots=True)
class BlockMemory:
    """The blocks of a rank that holds ``local_tokens`` tokens; all results are bytes on the device.

    ``received`` is None where no ranks share a sequence. Where some do, recurrent layers keep more for the sums of
    their segments.
    """

    shape: ModelShape
    local_tokens: int
    savings: Savings
    element_bytes: int = 2
    lora: Lora | None = None
    received: ReceivedKeys | None = None

    @property
    def again(self) -> int:
        """The number of blocks that run again."""
        return self.savings.count_again(self.shape.layers)

    @property
    def _is_tiled(self) -> bool:
        return self.savings.mlp_tile_tokens is not None and self.local_tokens > self.savings.mlp_tile_tokens

    @property
    def _mlp_width(self) -> float:
        """The inner width of an MLP, in the mean over the layers that have one."""
        return self.shape.mean_mlp_width * self.shape.layers / (self.shape.lone_mlps or self.shape.layers)

    @property
    def _sums(self) -> LayerSums:
        return sum_layers(
            self.shape,
            self.element_bytes,
            self.lora,
            tiled=self._is_tiled,
            summed=self.received is not None,
            ulysses_degree=self.received.ulysses_degree if self.received else 1,
        )

    def saved(self, layer: int) -> float:
        """What one block's forward saves: all tensors, or with tiles all but those inside the MLP."""
        return self.local_tokens * self._sums.layers[layer]

    def kept_by_rest(self) -> float:
        """What the blocks keep that are not recomputed."""
        saved, attending = self._sums.saved, self.shape.attending
        received = self.received.kept_tokens * self.shape.sent_width * self.element_bytes if self.received else 0.0
        return self.local_tokens * (saved[-1] - saved[self.again]) + received * (attending[-1] - attending[self.again])

    def kept_by_again(self) -> float:
        """What recomputed blocks keep between forward and backward."""
        shape, tokens, again = self.shape, self.local_tokens, self.again
        inputs = offloaded_checkpoint_bytes if self.savings.offload else checkpoint_bytes
        kept = inputs(shape, tokens, element_bytes=self.element_bytes, blocks=again)
        if self.savings.recompute != "save_attention":
            return kept
        attention = tokens * self._sums.results[again]
        if self.savings.attention_on_host:
            attention *= min(1.0, 2 / max(1, shape.attending[again]))
        return kept + attention

    def second_run(self) -> float:
        """What a recomputed block makes when it runs again, without results of attention that were kept; the most."""
        sums = self._sums
        most = sums.most_beside_results if self.savings.recompute == "save_attention" else sums.most_saved
        return self.local_tokens * most[self.again]

    def at_work(self) -> float:
        """What the backward of one block makes besides: first gradients inside the MLP, then those of received keys."""
        return max(self.moving(), self.exchanged())

    def exchanged(self) -> float:
        """Keys and values from other ranks, with their gradients, in the backward of one layer's attention.

        They are the block itself, the kernel's two gradients, both side by side, and their sum in float32. In a ring
        the next block arrives meanwhile, and the sums of the block before leave and arrive. Latents are expanded to
        the keys and values of all heads first. What a kernel needs inside is not counted: FlashAttention 2 makes the
        gradients for each query head.
        """
        if self.received is None:
            return 0.0
        shape = self.shape
        width = max(2 * kv_heads * head_dim for kv_heads, head_dim in map(shape.heads_of, range(shape.layers)))
        if shape.latent is not None:
            width = 2 * shape.heads * shape.head_dim
        held = width * (_RECEIVED_TENSORS * self.element_bytes + _SUM_BYTES)
        travels = shape.sent_width * (self.element_bytes + 2 * _SUM_BYTES) if self.received.ring else 0
        return self.received.tokens * (held + travels)

    def moving(self) -> float:
        """Gradients in transit in the MLP's backward of one block."""
        shape, width = self.shape, self.element_bytes
        if not self._is_tiled:
            moving = _MLP_TENSORS - kept_mlp_tensors(self.lora)
            return moving * self.local_tokens * self._mlp_width * width
        assert self.savings.mlp_tile_tokens is not None
        weights = shape.mlp_parameters if self.lora is None else 0
        tile = _MLP_TENSORS * self.savings.mlp_tile_tokens * self._mlp_width * width
        return tile + weights * (4 + width)


def checkpoint_bytes(
    shape: ModelShape, local_tokens: int, *, element_bytes: int = 2, blocks: int | None = None
) -> float:
    """Bytes of the inputs of the first ``blocks`` layers (None: all), kept when everything else is recomputed."""
    return float((shape.layers if blocks is None else blocks) * local_tokens * shape.width * element_bytes)


def offloaded_checkpoint_bytes(
    shape: ModelShape, local_tokens: int, *, element_bytes: int = 2, blocks: int | None = None
) -> float:
    """Bytes that stay on the device when layer inputs are copied to the host: the inputs of two layers in transit."""
    return min(2.0, 2.0 if blocks is None else blocks) * local_tokens * shape.width * element_bytes


def copied_bytes(
    shape: ModelShape, local_tokens: int, *, savings: Savings, element_bytes: int = 2, pinned: bool = False
) -> float:
    """Bytes of one rank's activations that are copied to the host.

    They are those of all recomputed blocks but the last, which needs its own first. With ``pinned`` the result is the
    host memory that they take: torch rounds each buffer up to a power of two.
    """
    blocks = savings.count_again(shape.layers) - 1
    if not savings.offload or blocks < 1:
        return 0.0

    def held(token_bytes: int) -> int:
        size = local_tokens * token_bytes
        return 1 << (size - 1).bit_length() if pinned else size

    attention = held(shape.query_width * element_bytes) + held(shape.heads * 4)
    attending = shape.attending[blocks] if savings.attention_on_host else 0
    return float(blocks * held(shape.width * element_bytes) + attending * attention)
