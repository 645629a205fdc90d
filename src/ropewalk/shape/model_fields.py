"""The numbers of a model that its config.json gives; what follows from them is in shape/model_shape.py."""

from dataclasses import dataclass
from typing import Literal

from ropewalk.rope.layers import LayerPosition
from ropewalk.shape.experts import Experts
from ropewalk.shape.family import Norm, QkNorm
from ropewalk.shape.latent import Latent
from ropewalk.shape.recurrent import RecurrentLayers
from ropewalk.shape.unequal import Unequal


@dataclass(frozen=True)
class ModelFields:
    """What a decoder is made of.

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
    unequal: Unequal | None = None
    """What differs between layers; heads and widths of the shape are then those of layers that attend to all tokens."""
    recurrent: RecurrentLayers | None = None
    """The layers that have a recurrence, in place of attention or beside it."""
    single: bool = False
    """Whether a layer is attention, a recurrence, an MLP or a mixture, and nothing else."""
    query_gate: bool = False
    """Whether the matrix of queries also makes a gate, as wide, for attention's output."""
    multimodal: bool = False
    """Whether the shape is that of the text part of a model that has others."""
