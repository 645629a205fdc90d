"""The numbers of a model that everybody else computes with: widths, counts, positions. No weights, no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ropewalk.rope.method import BaseRope
from ropewalk.rope.scaling import read_method


@dataclass(frozen=True, slots=True)
class ModelShape:
    """A decoder of the Llama kind. Made by shape/read.

    ``rope`` is the base's ``rope_parameters`` (with ``rope_type`` and ``rope_theta``), None where it is plain RoPE.
    ``mlp_width`` is the inner width of the gated MLP. ``dtype`` is the name of the weights' type. ``eos_id`` is the
    first, where a config lists several. ``qk_norm`` says over what queries and keys are normalised.
    """

    architecture: str
    layers: int
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp_width: int
    vocabulary: int
    tied: bool
    context_tokens: int
    theta: float
    rope: Mapping[str, Any] | None = None
    bos_id: int | None = None
    eos_id: int | None = None
    dtype: str = "float32"
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: Literal["none", "head", "all_heads"] = "none"

    @property
    def query_width(self) -> int:
        """Width of all query heads together; not always ``width``."""
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
        return matrices + biases + 2 * self.width + qk_norm

    @property
    def parameters(self) -> int:
        """Parameters of the whole model, exactly; a tied head is counted once."""
        embeddings = self.vocabulary * self.width * (1 if self.tied else 2)
        return embeddings + self.layers * self.block_parameters + self.width

    @property
    def base_rope(self) -> BaseRope:
        """What the model does to positions now. Raises UserError for a method we do not know."""
        running = None if self.rope is None else read_method(self.rope, where="the base's config.json")
        return BaseRope(self.theta, self.head_dim, self.context_tokens, running)
