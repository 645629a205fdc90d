"""The bytes that autograd keeps of a block for its backward, of attention, recurrent layers, norms and MLPs.

The tensors of a class are rows of data (shape/kept.py, shape/kept_recurrent.py), and the conformance suite compares
their bytes with those that torch keeps.
"""

import math

from ropewalk.shape.alike import has_mixture
from ropewalk.shape.kept import Counts, Kept, row_of_kept, weigh_kept
from ropewalk.shape.kept_recurrent import kept_summary_bytes, row_of_recurrent
from ropewalk.shape.model_shape import ModelShape


def stored_layer_bytes(
    shape: ModelShape, layer: int, local_tokens: int, *, element_bytes: int = 2, summed: bool = False
) -> float:
    """Bytes that autograd keeps of one layer without recomputation.

    ``summed``: context ranks share documents, and all segments of recurrent layers are summed up for others. In packs
    few are, so this is the most that they keep.
    """
    attends, recurs = shape.mixers[layer]
    mixing = _attention_bytes(shape, layer, element_bytes) if attends else 0.0
    if recurs:
        mixing += _recurrent_bytes(shape, element_bytes, summed=summed)
    return float(local_tokens * (_shared_bytes(shape, layer, element_bytes) + mixing))


def _attention_bytes(shape: ModelShape, layer: int, element_bytes: int) -> float:
    """Bytes that attention keeps of one token: the tensors that torch keeps of the class, and the log-sum-exp."""
    kept, (kv_heads, head_dim) = kept_of(shape), shape.heads_of(layer)
    numbers = weigh_kept(kept.angles, shape.rotary_dim, element_bytes) + 4 * shape.heads
    if shape.latent is not None:
        return numbers + _kept_of_latents(shape, element_bytes)
    numbers += weigh_kept(kept.query, shape.heads * head_dim, element_bytes)
    keys = 0 if shape.shares_keys(layer) else kv_heads * head_dim
    return numbers + weigh_kept(kept.key, keys, element_bytes)


def shared_heads_bytes(shape: ModelShape, layer: int, element_bytes: int, *, ulysses_degree: int) -> float:
    """Bytes that one layer's attention keeps of one token besides, where ``ulysses_degree`` ranks share the heads.

    They are the key heads that are copied so that each rank has one, and the output by tokens, which the output
    projection keeps, beside that by heads, which attention itself keeps.
    """
    if ulysses_degree == 1 or not shape.mixers[layer].attends:
        return 0.0
    if shape.latent is not None:  # each head has keys of its own; an output without padding is counted in any case
        return float(shape.output_width * element_bytes * (shape.value_dim >= shape.head_dim))
    kv_heads, head_dim = shape.heads_of(layer)
    counted = 0 if shape.shares_keys(layer) else kv_heads
    copied = math.lcm(kv_heads, ulysses_degree) - counted
    return float((shape.heads + 2 * copied) * head_dim * element_bytes)


def _recurrent_bytes(shape: ModelShape, element_bytes: int, *, summed: bool) -> float:
    """Bytes that the recurrence of a layer keeps of one token."""
    assert shape.recurrent is not None
    bytes_of_token = row_of_recurrent(shape.recurrent).bytes_of_token(shape.recurrent, element_bytes)
    return bytes_of_token + (kept_summary_bytes(shape.recurrent) if summed else 0.0)


def _shared_bytes(shape: ModelShape, layer: int, element_bytes: int) -> float:
    """Bytes that the norms of a layer, and its MLP if it has one, keep of one token."""
    kept = kept_of(shape)

    def weigh(counts: Counts, width: float) -> float:
        return weigh_kept(counts, width, element_bytes)

    numbers, experts = weigh(kept.width, shape.width), shape.experts
    dense = experts is None or experts.beside or not has_mixture(shape, layer)
    if dense and shape.has_mlp(layer):
        numbers += weigh(kept.mlp, shape.mlp_width * shape.mlp_factor(layer))
    if experts is not None and has_mixture(shape, layer):
        mixture = weigh(kept.mixed, shape.width) + weigh(kept.routed, experts.per_token * shape.width)
        mixture += weigh(kept.inner, experts.per_token * experts.width) + weigh(kept.shared, experts.shared_width)
        mixture += _CHOICE_BYTES * experts.per_token + 4 * experts.count + weigh(kept.beside, shape.width)
        numbers += mixture
    if shape.unequal is not None:
        numbers += weigh(_KEPT_INPUTS, shape.unequal.input_width)
    return numbers


_CHOICE_BYTES = 3 * 8 + 2 * 4
"""Of each expert that a token uses: whole numbers that sort tokens by expert, and two weights in float32."""
_KEPT_INPUTS: Counts = (4, 0)
"""Tensors of the width of a layer's own input (Gemma 4)."""


def kept_of(shape: ModelShape) -> Kept:
    """What the class of ``shape`` keeps."""
    return row_of_kept(shape.architecture, qk_norm=shape.qk_norm != "none", block_norms=shape.block_norms)


def _kept_of_latents(shape: ModelShape, element_bytes: int) -> float:
    """Bytes that latent attention keeps of one token and layer."""
    latent = shape.latent
    assert latent is not None
    # The third tensor of each norm, what is sent, and the output without the padding of narrow values; values that
    # need no padding are a view of the tensor from which keys are copied.
    elements = 3 * latent.norm_parameters + shape.sent_width + 2 * (shape.query_width + shape.kv_width)
    padded = shape.value_dim < shape.head_dim
    elements += shape.output_width if padded else shape.heads * latent.plain_dim
    return float(elements * element_bytes + latent.norm_parameters * (4 - element_bytes))
