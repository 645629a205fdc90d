"""Counts the weights that a step trains, from a model's shape: all, or adapters and the weights trained beside them.

A frozen weight has no gradient and no moments, costs half of a backward's arithmetic, and its matrix keeps no input.
The saving in activations is small: attention, activations and norms still keep tensors for their own gradients.
"""

from collections.abc import Iterable, Mapping
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
    sizes, names = merge_projections(shape), set(name_projections(shape, lora.projections))
    embedding = shape.vocabulary * shape.width
    matrices = sum(count * into * out for into, out, count in sizes.values())
    if shape.experts is not None:  # of the experts those that a token uses
        router = shape.width * shape.experts.count
        matrices += shape.mixtures * (3 * shape.width * shape.experts.active_width() + router)
    norms = shape.layers * shape.block_norms * shape.norm_parameters + shape.attention_layers * shape.qk_norm_parameters
    norms += shape.norm_parameters
    named = {{"head": "embeddings"}.get(each, each) if shape.tied else each for each in lora.also_train}
    head = ("embeddings" if shape.tied else "head") in named
    fires = sum(layer.bias == "fire" for layer in shape.positions) * (2 + FIRE_UNITS * (2 + shape.heads))
    return Trained(
        whole=embedding * len(named & {"embeddings", "head"}) + norms * ("norms" in named) + fires,
        adapters=lora.rank * sum(count * (into + out) for into, out, count in (sizes[name] for name in names)),
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
        less += int(shape.mean_mlp_width)
    inner = [name for name in names if name in ATTENTION or not tiled]
    return lora.rank * len(inner) - less


def kept_mlp_tensors(lora: Lora | None) -> int:
    """Number of tensors of the MLP's width that its backward needs.

    The last one is needed only for the gradient of the down projection.
    """
    return 4 if lora is None or "down_proj" in lora.projections else 3


def name_projections(shape: ModelShape, names: Iterable[str]) -> list[str]:
    """The class's own names of a block's matrices that are called ``names`` in Llama, each once."""
    own = dict(shape.projections)
    return list(dict.fromkeys(own.get(name, name) for name in names if name in shape.matrices))


def merge_projections(shape: ModelShape) -> Mapping[str, tuple[int, int, int]]:
    """Input width, output width and number of each kind of matrix of the blocks, by the class's own names.

    Of a mixture of experts the matrices are not counted: adapters leave them out.
    """
    own, found = dict(shape.projections), dict[str, tuple[int, int, int]]()
    for name, (into, out) in shape.matrices.items():
        layers = shape.attention_layers if name in shape.attention_matrices else shape.layers - shape.mixtures
        merged = own.get(name, name)
        found[merged] = (into, out + found.get(merged, (0, 0, 0))[1], layers)
    return found


def _qk_width(shape: ModelShape) -> int:
    if shape.latent is not None:
        return shape.latent.norm_parameters
    return 0 if shape.qk_norm == "none" else shape.query_width + shape.kv_width
