"""The numbers of a model that all other parts compute with: widths, counts, positions. No weights, no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from ropewalk.rope.layers import (
    FIRE_UNITS,
    LayerPosition,
    LayerRule,
    describe_layers,
    find_stretched,
    stretch_layers,
)
from ropewalk.rope.method import BaseRope
from ropewalk.rope.scaling import Rope, Unchanged


@dataclass(frozen=True, slots=True)
class ModelShape:
    """A decoder of the Llama kind. Made by shape/read.

    ``positions`` has one entry per layer, first to last. ``mlp_width`` is the inner width of the gated MLP. ``dtype``
    is the name of the weights' type. ``eos_id`` is the first, where a config lists several. ``qk_norm`` is the range
    over which queries and keys are normalised; ``block_norms`` is the number of other norms of a layer.
    """

    architecture: str
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp_width: int
    vocabulary: int
    tied: bool
    context_tokens: int
    positions: tuple[LayerPosition, ...]
    bos_id: int | None = None
    eos_id: int | None = None
    dtype: str = "float32"
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: Literal["none", "head", "all_heads"] = "none"
    block_norms: int = 2

    @property
    def layers(self) -> int:
        return len(self.positions)

    @property
    def query_width(self) -> int:
        """Width of all query heads together; not always equal to ``width``."""
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Width of all key heads together, and of all value heads."""
        return self.kv_heads * self.head_dim

    @property
    def block_parameters(self) -> int:
        """Parameters of one layer, exactly."""
        matrices = 2 * self.width * (self.query_width + self.kv_width) + 3 * self.width * self.mlp_width
        biases = (
            self.qkv_bias * (self.query_width + 2 * self.kv_width)
            + self.output_bias * self.width
            + self.mlp_bias * (2 * self.mlp_width + self.width)
        )
        qk_norm = {"none": 0, "head": 2 * self.head_dim, "all_heads": self.query_width + self.kv_width}[self.qk_norm]
        return matrices + biases + self.block_norms * self.width + qk_norm

    @property
    def parameters(self) -> int:
        """Parameters of the whole model, exactly; a tied head is counted once."""
        embeddings = self.vocabulary * self.width * (1 if self.tied else 2)
        fires = sum(layer.bias == "fire" for layer in self.positions) * (2 + 2 * FIRE_UNITS + FIRE_UNITS * self.heads)
        return embeddings + self.layers * self.block_parameters + self.width + fires

    @property
    def stretched(self) -> LayerPosition:
        """The first of the layers that a longer context affects."""
        return find_stretched(self.positions)

    @property
    def theta(self) -> float:
        """Theta of the layers that get stretched."""
        return self.stretched.theta

    @property
    def rope(self) -> Mapping[str, Any] | None:
        """``rope_parameters`` of the layers that get stretched, None where they are plain."""
        layer = self.stretched
        return None if isinstance(layer.rope, Unchanged) else layer.rope.to_hf(layer.theta)

    @property
    def base_rope(self) -> BaseRope:
        """The current position method of the layers that get stretched."""
        return self.stretched.as_base(head_dim=self.head_dim, context_tokens=self.context_tokens)

    def describe(self, positions: Sequence[LayerPosition]) -> list[str]:
        """The changes of ``positions`` against this model's own, in words for groups of equal layers."""
        return describe_layers(self.positions, positions, head_dim=self.head_dim, base_tokens=self.context_tokens)

    def stretch(self, pattern: tuple[LayerRule, ...], *, rope: Rope, context_tokens: int) -> "ModelShape":
        """The model that ``rope/layers.stretch_layers`` makes of this one; raises UserError as that function does."""
        positions = stretch_layers(
            self.positions,
            pattern,
            rope=rope,
            head_dim=self.head_dim,
            base_tokens=self.context_tokens,
            context_tokens=context_tokens,
        )
        tokens = min(layer.rope.config_tokens(context_tokens) for layer in positions)
        return replace(self, positions=positions, context_tokens=tokens)


def plain_layers(layers: int, theta: float) -> tuple[LayerPosition, ...]:
    """Every layer with plain RoPE over all earlier tokens."""
    return (LayerPosition(rope=Unchanged(), theta=theta),) * layers
