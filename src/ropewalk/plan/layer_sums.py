"""Running sums over a model's layers of the bytes that one token keeps in them.

A search of settings asks for the memory of a hundred thousand ways, and each recomputes another number of blocks. All
that a layer keeps grows with the tokens, so these sums are made once for each model and kept.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import accumulate

from ropewalk.plan.saved_tensors import kept_of, shared_heads_bytes, stored_layer_bytes
from ropewalk.plan.trained import count_kept, kept_mlp_tensors
from ropewalk.recipe.lora import Lora
from ropewalk.shape.model_shape import ModelShape


@dataclass(frozen=True, slots=True)
class LayerSums:
    """Bytes of one token. Entry n is of the first n layers, so entry 0 is 0; ``layers`` has one of each layer."""

    layers: tuple[float, ...]
    """What each layer saves for the backward, first to last."""
    saved: tuple[float, ...]
    """The sum of what layers save."""
    results: tuple[float, ...]
    """The sum of attention's outputs and log-sum-exps."""
    most_saved: tuple[float, ...]
    """The most that one layer saves."""
    most_beside_results: tuple[float, ...]
    """The most that one layer saves, its results of attention left out."""


def sum_layers(
    shape: ModelShape, element_bytes: int, lora: Lora | None, *, tiled: bool, summed: bool, ulysses_degree: int = 1
) -> LayerSums:
    """The sums of a model of ``shape``, made once for each object.

    ``tiled``: the MLP takes its tokens in tiles. ``summed``: context ranks share sequences, so recurrent layers keep
    more for the sums of their segments. ``ulysses_degree`` ranks share the heads of attention.
    """
    key = (element_bytes, lora, tiled, summed, ulysses_degree)
    found: LayerSums | None = shape.sums.get(key)
    if found is None:
        found = shape.sums[key] = _make_sums(
            shape, element_bytes, lora, tiled=tiled, summed=summed, ulysses_degree=ulysses_degree
        )
    return found


def _make_sums(
    shape: ModelShape, element_bytes: int, lora: Lora | None, *, tiled: bool, summed: bool, ulysses_degree: int
) -> LayerSums:
    def save(layer: int) -> float:
        shared = shared_heads_bytes(shape, layer, element_bytes, ulysses_degree=ulysses_degree)
        return shared + saved_token_bytes(shape, layer, element_bytes, lora, tiled=tiled, summed=summed)

    saved = _spread(shape, save)
    results = _spread(shape, lambda layer: attention_result_bytes(shape, layer, element_bytes))
    beside = [whole - part for whole, part in zip(saved, results, strict=True)]
    return LayerSums(tuple(saved), _add_up(saved), _add_up(results), _find_most(saved), _find_most(beside))


def saved_token_bytes(
    shape: ModelShape, layer: int, element_bytes: int, lora: Lora | None, *, tiled: bool, summed: bool
) -> float:
    """What one layer's forward saves of a token: all tensors, or with tiles all but those inside the MLP."""
    stored = stored_layer_bytes(shape, layer, 1, element_bytes=element_bytes, summed=summed)
    if lora is not None:
        stored += float(count_kept(shape, lora, tiled=tiled) * element_bytes)
    if tiled:  # a mixture is never cut into tiles
        inside = min(kept_mlp_tensors(lora), kept_of(shape).mlp[0])
        stored -= float(inside * shape.mlp_width * shape.mlp_factor(layer) * shape.has_mlp(layer) * element_bytes)
    return stored


def attention_result_bytes(shape: ModelShape, layer: int, element_bytes: int) -> float:
    """Bytes of the output and log-sum-exp of one layer's attention; 0 for a layer without.

    Kernels pad values that are narrower than keys, and the output too.
    """
    width = shape.heads * shape.heads_of(layer)[1]
    return float(shape.mixers[layer].attends * (width * element_bytes + shape.heads * 4))


def _spread(shape: ModelShape, bytes_of: Callable[[int], float]) -> list[float]:
    """``bytes_of(layer)`` of each layer, first to last; of layers alike in size, only one is asked."""
    found = [0.0] * shape.layers
    for group in shape.alike:
        own = bytes_of(group[0])
        for layer in group:
            found[layer] = own
    return found


def _add_up(each: Iterable[float]) -> tuple[float, ...]:
    return tuple(accumulate(each, initial=0.0))


def _find_most(each: Iterable[float]) -> tuple[float, ...]:
    return tuple(accumulate(each, max, initial=0.0))
