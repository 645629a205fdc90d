"""The bytes that autograd keeps of a block for its backward, of attention, recurrent layers, norms and MLPs.

The tensors of a class are rows of data (shape/kept.py, shape/kept_recurrent.py), and the conformance suite compares
their bytes with those that torch keeps.
"""

from ropewalk.shape.kept import Counts, Kept, row_of_kept, weigh_kept
from ropewalk.shape.kept_recurrent import KEPT_RECURRENT, kept_summary_bytes
from ropewalk.shape.model_shape import ModelShape


def stored_block_bytes(shape: ModelShape, local_tokens: int, *, element_bytes: int = 2, summed: bool = False) -> float:
    """Bytes that autograd keeps of one layer without recomputation, in the mean over layers.

    ``summed``: context ranks share documents, and all segments of recurrent layers are summed up for others. In packs
    few are, so this is the most that they keep.
    """
    attending = _attention_bytes(shape, element_bytes)
    if shape.recurrent is None:
        mixing = attending
    else:
        count = len(shape.recurrent.layers)
        recurrent = _recurrent_bytes(shape, element_bytes, summed=summed)
        mixing = (shape.attention_layers * attending + count * recurrent) / shape.layers
    shared = _norm_bytes(shape, element_bytes) + _mlp_bytes(shape, element_bytes) / shape.layers
    return float(local_tokens * (shared + mixing))


def largest_block_bytes(shape: ModelShape, local_tokens: int, *, element_bytes: int = 2, summed: bool = False) -> float:
    """As ``stored_block_bytes``, of the kind of layer that keeps most, attention or recurrence."""
    mixing = _attention_bytes(shape, element_bytes) if shape.attention_layers else 0.0
    if shape.recurrent is not None:
        mixing = max(mixing, _recurrent_bytes(shape, element_bytes, summed=summed))
    norms, mlps = _norm_bytes(shape, element_bytes), _mlp_bytes(shape, element_bytes)
    if shape.lone_mlps:  # no layer has both
        return float(local_tokens * (norms + max(mixing, mlps / shape.lone_mlps)))
    return float(local_tokens * (norms + mlps / shape.layers + mixing))


def _attention_bytes(shape: ModelShape, element_bytes: int) -> float:
    """Bytes that attention keeps of one token: the tensors that torch keeps of the class, and the log-sum-exp."""
    kept = kept_of(shape)
    numbers = weigh_kept(kept.angles, shape.rotary_dim, element_bytes) + 4 * shape.heads
    if shape.latent is not None:
        return numbers + _kept_of_latents(shape, element_bytes)
    own = 1 - shape.unequal.sharing / shape.layers if shape.unequal else 1
    numbers += weigh_kept(kept.query, shape.query_width, element_bytes)
    return numbers + weigh_kept(kept.key, own * shape.kv_width, element_bytes)


def _recurrent_bytes(shape: ModelShape, element_bytes: int, *, summed: bool) -> float:
    """Bytes that a recurrent layer keeps of one token in place of attention."""
    assert shape.recurrent is not None
    bytes_of_token = KEPT_RECURRENT[shape.recurrent.layout].bytes_of_token(shape.recurrent, element_bytes)
    return bytes_of_token + (kept_summary_bytes(shape.recurrent) if summed else 0.0)


def _norm_bytes(shape: ModelShape, element_bytes: int) -> float:
    """Bytes that the norms of a layer, and a layer's own input, keep of one token."""
    numbers = weigh_kept(kept_of(shape).width, shape.width, element_bytes)
    if shape.unequal is not None:
        numbers += weigh_kept(_KEPT_INPUTS, shape.unequal.input_width, element_bytes)
    return numbers


def _mlp_bytes(shape: ModelShape, element_bytes: int) -> float:
    """Bytes that the MLPs and mixtures of all layers keep of one token."""
    kept = kept_of(shape)

    def weigh(counts: Counts, width: float) -> float:
        return weigh_kept(counts, width, element_bytes)

    dense = weigh(kept.mlp, shape.layers * shape.dense_mlp_width)
    if shape.experts is not None:
        experts = shape.experts
        mixture = weigh(kept.mixed, shape.width) + weigh(kept.routed, experts.per_token * shape.width)
        mixture += weigh(kept.inner, experts.per_token * experts.width) + weigh(kept.shared, experts.shared_width)
        mixture += _CHOICE_BYTES * experts.per_token + 4 * experts.count + weigh(kept.beside, shape.width)
        dense += shape.mixtures * mixture
    return dense


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
