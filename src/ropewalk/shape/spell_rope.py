"""The rope block of one layer as a class of transformers reads it: its method, the rotated share, and kept keys.

Phi-3's class runs plain RoPE and LongRoPE only. A LongRoPE with equal factors for short and long documents is any fixed
method: a factor is a pair's plain frequency over the wanted one, and the attention factor is written out.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ropewalk.rope.frequency import plain_inv_freq
from ropewalk.rope.layers import LayerPosition
from ropewalk.shape.family import Family
from ropewalk.shape.model_shape import ModelShape


def spell_rope(layer: LayerPosition, family: Family, shape: ModelShape) -> dict[str, Any]:
    """``rope_parameters`` of one layer, in the words of ``family``."""
    values = layer.rope.to_hf(layer.theta)
    if family.methods is not None and values["rope_type"] not in family.methods:
        values = _as_longrope(layer, shape)
    return values | ({"partial_rotary_factor": shape.rotary_share} if family.partial else {})


def can_spell(layer: LayerPosition, family: Family, shape: ModelShape) -> bool:
    """Whether a class with few methods can run the layer: its own method, or fixed angles that are not 0."""
    if family.methods is None or layer.rope.to_hf(layer.theta)["rope_type"] in family.methods:
        return True
    return not layer.rope.depends_on_length and bool((layer.inv_freq(shape.rotary_dim) > 0).all())


def find_kept(config: Mapping[str, Any], family: Family) -> dict[str, Any]:
    """Entries of a file's rope block that the class uses for more than RoPE; a new block must have them too."""
    blocks = [config.get(key) for key in ("rope_parameters", "rope_scaling")]
    found = next((block for block in blocks if isinstance(block, Mapping)), family.default_rope)
    return {key: found[key] for key in family.kept_rope_keys if key in found}


def say_head_dim(config: Mapping[str, Any], shape: ModelShape, positions: Sequence[LayerPosition]) -> dict[str, int]:
    """``head_dim``, where a file has none and a method needs it: transformers then computes these from null.

    Mixtral's class, for one, has no default for it.
    """
    kinds = {layer.rope.to_hf(layer.theta)["rope_type"] for layer in positions}
    said = config.get("head_dim") is not None or shape.latent is not None or shape.unequal is not None
    return {} if said or not kinds & {"yarn", "longrope", "dynamic"} else {"head_dim": shape.head_dim}


def _as_longrope(layer: LayerPosition, shape: ModelShape) -> dict[str, Any]:
    factors = (plain_inv_freq(layer.theta, shape.rotary_dim) / layer.inv_freq(shape.rotary_dim)).tolist()
    factor, original = (getattr(layer.rope, name, None) for name in ("factor", "original_tokens"))
    return {
        "rope_type": "longrope",
        "rope_theta": layer.theta,
        "short_factor": factors,
        "long_factor": factors,
        "factor": factor or 1.0,
        "original_max_position_embeddings": original or shape.context_tokens,
        "attention_factor": layer.attention_factor,
    }
