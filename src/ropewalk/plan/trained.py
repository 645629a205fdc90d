"""Which weights a step trains, counted from a model's shape: all of them, or adapters and what is trained beside them.

A frozen weight has no gradient and no moments, half of a backward's arithmetic, and its matrix keeps no input. The
surprise is how much stays: what attention, activations and norms keep for their own gradients does not get less.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from ropewalk.recipe.lora import ATTENTION, Lora
from ropewalk.rope.layers import FIRE_UNITS
from ropewalk.shape.model_shape import ModelShape


@dataclass(frozen=True, slots=True)
class Trained:
    """Counts of parameters. ``adapters`` come on top of the model's own; ``whole`` are those of its own that move."""

    whole: int
    adapters: int = 0
    head: bool = True
    """Whether the head's weight has a gradient."""
    frozen_matrices: int = 0
    """Those of the products that a forward pass counts, head included."""

    @property
    def parameters(self) -> int:
        """All that move."""
        return self.whole + self.adapters


def count_trained(shape: ModelShape, lora: Lora | None) -> Trained:
    """What moves in a step of a model of ``shape``."""
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
    """Elements per token and layer that autograd keeps more for adapters than it keeps less for frozen weights.

    ``tiled`` says whether the MLP takes its tokens in tiles, and so keeps its input in any case.
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
    """Tensors of the MLP's width that its backward needs: the last one only for its down projection's gradient."""
    return 4 if lora is None or "down_proj" in lora.projections else 3


def _projections(shape: ModelShape) -> Mapping[str, tuple[int, int]]:
    """Width in and out of each matrix of a block."""
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
