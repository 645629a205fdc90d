"""The numbers of a model that all other parts compute with: widths, counts, positions. No weights, no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
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
from ropewalk.shape.experts import Experts
from ropewalk.shape.family import Norm, QkNorm
from ropewalk.shape.latent import Latent, require_score_factor, score_factor


@dataclass(frozen=True)  # no slots: a search asks for the sums below a hundred thousand times, so they are kept
class ModelShape:
    """A decoder of blocks with attention and an MLP. Made by shape/read.

    ``head_dim`` is the width of a query's or a key's head; values of a latent attention may be narrower.
    ``positions`` has one entry per layer, first to last. ``mlp_width`` is the inner width of a dense MLP, which is
    ``gated`` (three matrices) or ``plain`` (two). ``rotary_dim`` is the number of dimensions of a head that RoPE turns.
    ``dtype`` is the name of the weights' type. ``eos_id`` is the first, where a config lists several. ``qk_norm`` is
    the range over which queries and keys are normalised; ``block_norms`` is the number of other norms of a layer. The
    logits are multiplied by ``logit_scale``, then capped: ``logit_cap`` tanh(x / ``logit_cap``). ``projections`` are
    the names of a block's matrices that differ from Llama's.
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
    qk_norm: QkNorm = "none"
    block_norms: int = 2
    rotary_share: float = 1.0
    norm: Norm = "scale"
    mlp: Literal["gated", "plain"] = "gated"
    experts: Experts | None = None
    other_parameters: int = 0
    """Trained numbers of a layer that belong to no matrix and no norm: sinks, constants of an activation."""
    logit_scale: float = 1.0
    logit_cap: float | None = None
    projections: tuple[tuple[str, str], ...] = ()
    latent: Latent | None = None

    @property
    def rotary_dim(self) -> int:
        """Dimensions of a head that RoPE turns."""
        return self.latent.rotary_dim if self.latent else int(self.head_dim * self.rotary_share)

    @property
    def score_scale(self) -> float:
        """The usual scale of scores, with the factor that a class with latent attention takes from its yarn."""
        return float(self.head_dim**-0.5) * (score_factor(self.positions) if self.latent else 1.0)

    @property
    def layers(self) -> int:
        return len(self.positions)

    @property
    def query_width(self) -> int:
        """Width of all query heads together; not always equal to ``width``."""
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Width of all key heads together, and of all value heads where those are as wide."""
        return self.kv_heads * self.head_dim

    @property
    def value_dim(self) -> int:
        """Width of a value's head."""
        return self.latent.value_dim if self.latent else self.head_dim

    @property
    def output_width(self) -> int:
        """Width of the output of all heads together."""
        return self.heads * self.value_dim

    @property
    def sent_width(self) -> int:
        """Numbers of one token and layer that other context ranks need for its keys and values."""
        return self.latent.sent_width if self.latent else self.kv_heads * (self.head_dim + self.value_dim)

    @property
    def attention_matrices(self) -> dict[str, tuple[int, int]]:
        """Input and output width of each matrix of a layer's attention, by the names of Llama where it has them."""
        if self.latent is not None:
            return self.latent.matrices(self.width, self.heads)
        return {
            "q_proj": (self.width, self.query_width),
            "k_proj": (self.width, self.kv_width),
            "v_proj": (self.width, self.kv_width),
            "o_proj": (self.query_width, self.width),
        }

    @property
    def matrices(self) -> dict[str, tuple[int, int]]:
        """Input and output width of each matrix of a layer with a dense MLP, by the names of Llama."""
        attention = self.attention_matrices
        gate = {"gate_proj": (self.width, self.mlp_width)} if self.mlp == "gated" else {}
        return attention | gate | {"up_proj": (self.width, self.mlp_width), "down_proj": (self.mlp_width, self.width)}

    @property
    def qk_norm_parameters(self) -> int:
        """Parameters of the norms of queries and keys of one layer, or of their latents."""
        if self.latent is not None:
            return self.latent.norm_parameters
        both = {"none": 0, "head": 2 * self.head_dim}
        return both.get(self.qk_norm, self.query_width + self.kv_width)

    @property
    def norm_parameters(self) -> int:
        """Parameters of one other norm."""
        return self.width * {"scale": 1, "scale_bias": 2, "none": 0}[self.norm]

    def has_experts(self, layer: int) -> bool:
        """Whether a layer has a mixture of experts instead of a dense MLP."""
        return self.experts is not None and layer in self.experts.layers

    @property
    def mixtures(self) -> int:
        """The number of layers with a mixture of experts."""
        return len(self.experts.layers) if self.experts else 0

    @cached_property
    def attention_parameters(self) -> int:
        """Parameters of one layer outside of its MLP, exactly."""
        biased = self.latent.bias_width if self.latent else self.query_width + 2 * self.kv_width
        biases = self.qkv_bias * biased + self.output_bias * self.width
        norms = self.block_norms * self.norm_parameters + self.qk_norm_parameters
        matrices = sum(into * out for into, out in self.attention_matrices.values())
        return matrices + biases + norms + self.other_parameters

    @cached_property
    def mlp_parameters(self) -> int:
        """Parameters of one dense MLP, exactly."""
        wide = 2 if self.mlp == "gated" else 1
        return (wide + 1) * self.width * self.mlp_width + self.mlp_bias * (wide * self.mlp_width + self.width)

    def layer_parameters(self, layer: int) -> int:
        """Parameters of one layer, exactly."""
        if self.experts is not None and self.has_experts(layer):
            return self.attention_parameters + self.experts.parameters(self.width)
        return self.attention_parameters + self.mlp_parameters

    @cached_property
    def block_parameters(self) -> int:
        """Parameters of the largest layer, exactly; of any layer where all are alike."""
        return max(self.layer_parameters(layer) for layer in {0, self.layers - 1, *self._first_mixture()})

    def _first_mixture(self) -> tuple[int, ...]:
        return self.experts.layers[:1] if self.experts else ()

    @cached_property
    def parameters(self) -> int:
        """Parameters of the whole model, exactly; a tied head is counted once."""
        embeddings = self.vocabulary * self.width * (1 if self.tied else 2)
        fires = sum(layer.bias == "fire" for layer in self.positions) * (2 + 2 * FIRE_UNITS + FIRE_UNITS * self.heads)
        mixtures = self.mixtures * self.experts.parameters(self.width) if self.experts else 0
        dense = (self.layers - self.mixtures) * self.mlp_parameters
        return embeddings + self.layers * self.attention_parameters + dense + mixtures + self.norm_parameters + fires

    @cached_property
    def mean_mlp_width(self) -> float:
        """The inner width of the MLP that a token passes, in the mean over layers: of a mixture the experts it uses."""
        active = self.mixtures * self.experts.active_width() if self.experts else 0
        return (active + (self.layers - self.mixtures) * self.mlp_width) / self.layers

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
        return self.stretched.as_base(head_dim=self.rotary_dim, context_tokens=self.context_tokens)

    def describe(self, positions: Sequence[LayerPosition]) -> list[str]:
        """The changes of ``positions`` against this model's own, in words for groups of equal layers."""
        return describe_layers(self.positions, positions, head_dim=self.rotary_dim, base_tokens=self.context_tokens)

    def stretch(self, pattern: tuple[LayerRule, ...], *, rope: Rope, context_tokens: int) -> "ModelShape":
        """The model that ``rope/layers.stretch_layers`` makes of this one; raises UserError as that function does."""
        positions = stretch_layers(
            self.positions,
            pattern,
            rope=rope,
            head_dim=self.rotary_dim,
            base_tokens=self.context_tokens,
            context_tokens=context_tokens,
        )
        if self.latent is not None:
            require_score_factor(self.positions, positions)
        tokens = min(layer.rope.config_tokens(context_tokens) for layer in positions)
        return replace(self, positions=positions, context_tokens=tokens)


def plain_layers(layers: int, theta: float) -> tuple[LayerPosition, ...]:
    """Every layer with plain RoPE over all earlier tokens."""
    return (LayerPosition(rope=Unchanged(), theta=theta),) * layers
