"""Counts the weights that a step trains, from a model's shape: all, or adapters and the weights trained beside them.

A frozen weight has no gradient and no moments, costs half of a backward's arithmetic, and its matrix keeps no input.
The saving in activations is small: attention, activations and norms still keep tensors for their own gradients.
"""

from collections import Counter, defaultdict
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
    matrices = sum(count * into * out for each in sizes.values() for into, out, count in each)
    if shape.unequal is not None:
        matrices += shape.unequal.input_products(shape.width, shape.layers)
    if shape.experts is not None:  # of the experts those that a token uses
        router = shape.width * shape.experts.count
        matrices += shape.mixtures * (shape.experts.matrices * shape.width * shape.experts.active_width() + router)
    named = {{"head": "embeddings"}.get(each, each) if shape.tied else each for each in lora.also_train}
    head = ("embeddings" if shape.tied else "head") in named
    fires = sum(layer.bias == "fire" for layer in shape.positions) * (2 + FIRE_UNITS * (2 + shape.heads))
    return Trained(
        whole=embedding * len(named & {"embeddings", "head"}) + _count_norms(shape) * ("norms" in named) + fires,
        adapters=lora.rank * sum(count * (into + out) for name in names for into, out, count in sizes[name]),
        head=head,
        frozen_matrices=matrices + embedding * (not head),
    )


def _count_norms(shape: ModelShape) -> int:
    """The parameters of all norms."""
    if shape.unequal is None:
        blocks = shape.layers * shape.block_norms * shape.norm_parameters
        return blocks + shape.attention_layers * shape.qk_norm_parameters + shape.norm_parameters
    inputs = shape.unequal.input_width
    layers = shape.layers * (shape.block_norms + (inputs > 0)) * shape.norm_parameters
    layers += shape.mixtures * (shape.experts.norms if shape.experts else 0) * shape.width
    heads = sum(dim * (1 if shape.shares_keys(layer) else 2) for layer, dim in enumerate(shape.rotary_dims))
    return layers + heads * (shape.qk_norm == "head") + shape.norm_parameters + inputs


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


def merge_projections(shape: ModelShape) -> Mapping[str, list[tuple[int, int, int]]]:
    """Input width, output width and number of each size of the blocks' matrices, by the class's own names.

    Of a mixture of experts the matrices are not counted: adapters leave them out.
    """
    if shape.unequal is not None:
        return _count_unequal(shape)
    own, found = dict(shape.projections), dict[str, tuple[int, int, int]]()
    for name, (into, out) in shape.matrices.items():
        layers = shape.attention_layers if name in shape.attention_matrices else shape.dense_mlps
        merged = own.get(name, name)
        found[merged] = (into, out + found.get(merged, (0, 0, 0))[1], layers)
    return {name: [size] for name, size in found.items()}


def _count_unequal(shape: ModelShape) -> Mapping[str, list[tuple[int, int, int]]]:
    """The same where layers differ; their matrices have the names of Llama."""
    found: dict[str, Counter[tuple[int, int]]] = defaultdict(Counter)
    for layer in range(shape.layers):
        wide = shape.mlp_width * shape.mlp_factor(layer)
        mlp = {"gate_proj": (shape.width, wide), "up_proj": (shape.width, wide), "down_proj": (wide, shape.width)}
        for name, size in (shape.attention_matrices_of(layer) | mlp).items():
            found[name][size] += 1
    return {name: [(into, out, layers) for (into, out), layers in sizes.items()] for name, sizes in found.items()}


def _qk_width(shape: ModelShape) -> int:
    if shape.latent is not None:
        return shape.latent.norm_parameters
    return 0 if shape.qk_norm == "none" else shape.query_width + shape.kv_width
