"""Counts the weights that a step trains, from a model's shape: all, or adapters and the weights trained beside them.

A frozen weight has no gradient and no moments, costs half of a backward's arithmetic, and its matrix keeps no input.
The saving in activations is small: attention, activations and norms still keep tensors for their own gradients.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from ropewalk.recipe.lora import ATTENTION, Lora
from ropewalk.rope.layers import FIRE_UNITS
from ropewalk.shape.model_shape import ModelShape


@dataclass(frozen=True, slots=True)
class Trained:
    """Counts of trained parameters. ``whole`` are the model's own; ``adapters`` are added to the model."""

    whole: int
    adapters: int = 0
    head: bool = True
    """Whether the head's weight has a gradient."""
    frozen_matrices: int = 0
    """Parameters of frozen matrices that a forward pass multiplies by, the head included."""

    @property
    def parameters(self) -> int:
        """All trained parameters."""
        return self.whole + self.adapters


def count_trained(shape: ModelShape, lora: Lora | None) -> Trained:
    """Count the parameters that a step trains in a model of ``shape``; ``lora`` None trains all of them."""
    if lora is None:
        return Trained(shape.parameters)
    sizes, names = _projections(shape), lora.projections
    embedding = shape.vocabulary * shape.width
    matrices = shape.layers * sum(into * out for into, out in sizes.values())
    norms = shape.layers * (shape.block_norms * shape.width + _qk_norm(shape)) + shape.width
    named = {{"head": "embeddings"}.get(each, each) if shape.tied else each for each in lora.also_train}
    head = ("embeddings" if shape.tied else "head") in named
    fires = sum(layer.bias == "fire" for layer in shape.positions) * (2 + FIRE_UNITS * (2 + shape.heads))
    return Trained(
        whole=embedding * len(named & {"embeddings", "head"}) + norms * ("norms" in named) + fires,
        adapters=shape.layers * lora.rank * sum(sum(sizes[name]) for name in names),
        head=head,
        frozen_matrices=matrices + embedding * (not head),
    )


def count_kept(shape: ModelShape, lora: Lora, *, tiled: bool) -> int:
    """Extra elements per token and layer that autograd keeps for adapters, minus those it saves for frozen weights.

    ``tiled`` is true if the MLP takes its tokens in tiles; then it keeps its input in any case.
    """
    names = lora.projections
    less = 0
    if "norms" not in lora.also_train:  # the normalised input of a norm's weight
        less += shape.block_norms * shape.width + _qk_width(shape)
    if not {"q_proj", "k_proj", "v_proj"} & set(names):
        less += shape.width
    if not tiled and not {"gate_proj", "up_proj"} & set(names):
        less += shape.width
    if "down_proj" not in names:
        less += shape.mlp_width
    inner = [name for name in names if name in ATTENTION or not tiled]
    return lora.rank * len(inner) - less


def kept_mlp_tensors(lora: Lora | None) -> int:
    """Number of tensors of the MLP's width that its backward needs.

    The last one is needed only for the gradient of the down projection.
    """
    return 4 if lora is None or "down_proj" in lora.projections else 3


def _projections(shape: ModelShape) -> Mapping[str, tuple[int, int]]:
    """Input and output width of each matrix of a block."""
    return {
        "q_proj": (shape.width, shape.query_width),
        "k_proj": (shape.width, shape.kv_width),
        "v_proj": (shape.width, shape.kv_width),
        "o_proj": (shape.query_width, shape.width),
        "gate_proj": (shape.width, shape.mlp_width),
        "up_proj": (shape.width, shape.mlp_width),
        "down_proj": (shape.mlp_width, shape.width),
    }


def _qk_norm(shape: ModelShape) -> int:
    return {"none": 0, "head": 2 * shape.head_dim, "all_heads": _qk_width(shape)}[shape.qk_norm]


def _qk_width(shape: ModelShape) -> int:
    return 0 if shape.qk_norm == "none" else shape.query_width + shape.kv_width
