"""Chosen layers with softmax attention become gated delta nets: which class of transformers runs the result.

Such a model needs a class that has both kinds of layers, and that can run the untouched layers to the last digit. For
a Qwen3 that is the class of Qwen3.5: its attention also has a gate, which is one half everywhere where the rows of the
gate are zeros, and doubled output matrices take that back. Sizes are those of the attention (model/convert_layers.py
has the weights): a head of keys and values for each head of queries, as wide, and a convolution of four tokens.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ropewalk.core.error import UserError
from ropewalk.rope.layers import LayerPosition, LayerRule, describe_layers
from ropewalk.rope.scaling import Rope
from ropewalk.shape.families import require_row
from ropewalk.shape.model_shape import ModelShape
from ropewalk.shape.recurrent_sizes import read_sizes
from ropewalk.shape.rope_keys import FULL

CONVERTED = {"Qwen3ForCausalLM": "Qwen3_5ForCausalLM"}
"""By the class of the base: the one that has gated delta nets beside the same attention."""
TAPS = 4
"""Tokens of the convolution, as in all published models with gated delta nets."""
_KEPT = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "hidden_act", "max_position_embeddings", "initializer_range", "rms_norm_eps", "use_cache",
    "tie_word_embeddings", "attention_dropout", "rope_parameters", "rope_theta", "rope_scaling", "pad_token_id",
    "bos_token_id", "eos_token_id",
)  # fmt: skip


def change_layers(shape: ModelShape, pattern: tuple[LayerRule, ...], *, rope: Rope, context_tokens: int) -> ModelShape:
    """The model that a stage makes of ``shape``: new positions, and new mixers where the pattern has them.

    Raises UserError as ``ModelShape.stretch`` does, for a multimodal base, where no class of transformers can run the
    result, and where no layer would keep attention.
    """
    made = shape.stretch(pattern, rope=rope, context_tokens=context_tokens)
    return _convert_shape(shape, made) if list_converted(shape, made.positions) else made


def describe_change(shape: ModelShape, positions: Sequence[LayerPosition]) -> list[str]:
    """The changes of ``positions`` against the model's own, in words for groups of equal layers."""
    return describe_layers(shape.positions, positions, head_dim=shape.rotary_dim, base_tokens=shape.context_tokens)


def list_converted(shape: ModelShape, positions: Sequence[LayerPosition]) -> tuple[int, ...]:
    """The layers with attention of ``shape`` that have another mixer in ``positions``."""
    both = zip(shape.positions, positions, strict=True)
    return tuple(layer for layer, (old, new) in enumerate(both) if old.mixer is None and new.mixer is not None)


def _convert_shape(shape: ModelShape, made: ModelShape) -> ModelShape:
    positions, layers = made.positions, list_converted(shape, made.positions)
    _check_base(shape, positions, layers)
    name = CONVERTED[shape.architecture]
    family = require_row(name)
    assert family.recurrent is not None
    sizes = _sizes(shape)
    recurrent = read_sizes(family.recurrent, layers, sizes)
    own = tuple(
        layer.model_copy(update={"theta": family.theta}) if layer.mixer is not None else layer for layer in positions
    )
    return replace(
        made,
        architecture=name,
        positions=own,
        recurrent=recurrent,
        query_gate=True,
        dtype="float32",
        projections=tuple(family.projections.items()),
    )


def convert_config(
    config: Mapping[str, Any], shape: ModelShape, positions: tuple[LayerPosition, ...]
) -> dict[str, Any]:
    """The config.json of the converted model with the positions of its base; ``config`` and ``shape`` are the base's.

    Its layers with attention are then spelled as those of any model of its class.
    """
    name = CONVERTED[shape.architecture]
    word = require_row(name).recurrent.word  # type: ignore[union-attr]
    kinds = [FULL if layer.mixer is None else word for layer in positions]
    return {
        **{key: config[key] for key in _KEPT if key in config},
        "architectures": [name],
        "model_type": require_row(name).model_type,
        "head_dim": shape.head_dim,
        "partial_rotary_factor": 1.0,
        "attention_bias": False,
        "tie_word_embeddings": shape.tied,
        "layer_types": kinds,
        **_sizes(shape),
    }


def _sizes(shape: ModelShape) -> dict[str, int]:
    return {
        "hidden_size": shape.width,
        "linear_conv_kernel_dim": TAPS,
        "linear_num_key_heads": shape.heads,
        "linear_num_value_heads": shape.heads,
        "linear_key_head_dim": shape.head_dim,
        "linear_value_head_dim": shape.head_dim,
    }


def _refuse(why: str, fix: str) -> UserError:
    return UserError("layers cannot become gated delta nets", where="layers", why=why, fix=fix)


def _check_base(shape: ModelShape, positions: tuple[LayerPosition, ...], layers: tuple[int, ...]) -> None:
    if shape.multimodal:
        raise _refuse(
            "the base has parts that are not text, and no class of transformers has them beside such layers",
            "choose a base of text alone",
        )
    if shape.architecture not in CONVERTED:
        raise _refuse(
            f"no class of transformers has gated delta nets beside layers with the attention of {shape.architecture}; "
            f"{', '.join(CONVERTED.values())} has them beside that of {', '.join(CONVERTED)}",
            f"choose a base of {', '.join(CONVERTED)}",
        )
    if shape.qkv_bias or shape.output_bias:
        raise _refuse("the attention of this base has biases, and gated delta nets have none", "choose another base")
    if len(layers) == shape.layers:
        raise _refuse("no layer would keep attention", "leave at least one line of layers without mixer")
    if any(shape.positions[layer].window_tokens is not None for layer in layers):
        raise _refuse("a layer with a window does not see what a state holds", "choose layers with full attention")
    others = [layer for layer in positions if layer.mixer is None]
    if any(layer.window_tokens or layer.log_n_tokens or layer.bias for layer in others):
        raise _refuse(
            f"{CONVERTED[shape.architecture]} has no windows, temperatures or biases in its layers with attention",
            "remove them from the other lines of layers",
        )
