"""Check the values of a config.json that a class of transformers builds its modules with; refuse unusable ones.

transformers fails at a bad value only when the model is built, after hours of preparing text, and names a line of its
code. Heads of one pair are refused as well: every bound on theta needs several pairs, and no base has such heads.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ropewalk.core.error import UserError
from ropewalk.core.quantity import format_count
from ropewalk.rope.layers import LayerPosition
from ropewalk.shape.family import Family

ACTIVATIONS = (
    "silu",
    "swish",
    "gelu",
    "gelu_new",
    "gelu_fast",
    "gelu_python",
    "gelu_pytorch_tanh",
    "gelu_accurate",
    "quick_gelu",
    "mish",
    "relu",
    "relu2",
    "relu6",
    "sigmoid",
    "tanh",
    "linear",
    "xielu",
)
"""Names that transformers supports and that need no other setting."""
LARGEST_COUNT, MOST_LAYERS, WIDEST_HEAD = 1 << 31, 1 << 14, 1 << 14
"""Larger widths, lengths, layers and heads belong to no real model."""
_ACTIVATION_KEYS, _ID_KEYS = ("hidden_act", "hidden_activation"), ("pad_token_id",)
_FLAGS = (
    *("attention_bias", "mlp_bias", "use_bias", "qkv_bias", "attention_out_bias", "use_qkv_bias", "use_qk_norm"),
    *("tie_word_embeddings", "use_sliding_window", "use_cache"),
)
_POSITIVE = ("rms_norm_eps", "query_pre_attn_scalar", "layer_norm_eps", "norm_eps", "attn_logit_softcapping")
_SHARES = ("attention_dropout",)
_SPREADS = ("initializer_range",)


def check_values(
    config: Mapping[str, Any], family: Family, *, head_dim: int, rotary_dim: int, vocabulary: int, where: str
) -> None:
    """Raise UserError for a head that RoPE cannot turn, and for a value of another kind than its key needs."""
    if rotary_dim % 2 or rotary_dim <= 2:
        found = "an odd number" if rotary_dim % 2 else "a single pair" if rotary_dim else "none"
        raise UserError(
            "RoPE rotates pairs of dimensions",
            where=f"{where}: head_dim",
            why=f"a head has {head_dim}: {found}"
            if rotary_dim == head_dim
            else f"of a head's {head_dim} RoPE turns {rotary_dim}: {found}",
            fix="choose a base whose heads have an even number of dimensions, 4 or more",
        )
    for key in _ACTIVATION_KEYS:
        if config.get(key) is not None and config[key] not in ACTIVATIONS:
            raise _refuse(config, key, f"one of {', '.join(ACTIVATIONS)}", where)
    for key in _FLAGS:
        if not isinstance(config.get(key, False), bool | None):
            raise _refuse(config, key, "true or false", where)
    for key in _ID_KEYS:
        if config.get(key) is not None and not (type(config[key]) is int and -1 <= config[key] < vocabulary):
            raise _refuse(config, key, f"the id of one of {vocabulary} tokens, or null", where)
    if family.pad_id is not None and "pad_token_id" not in config and family.pad_id >= vocabulary:
        raise UserError(
            "pad_token_id is missing",
            where=f"{where}: pad_token_id",
            why=f"the class of {family.model_type} then takes {family.pad_id}, and the model has {vocabulary} tokens",
            fix='add "pad_token_id": null, or the id of the token that pads',
        )
    for keys, least, most, words in (
        (_POSITIVE, 1e-30, 1e30, "a number above 0"),
        (_SHARES, 0.0, 1.0, "a number from 0 to 1"),
        (_SPREADS, 0.0, 1e30, "a number of 0 or more"),
    ):
        for key in keys:
            if config.get(key) is not None and not _is_within(config[key], least, most):
                raise _refuse(config, key, words, where)


def check_equal_heads(config: Mapping[str, Any], family: Family, *, width: int, heads: int, where: str) -> None:
    """Raise UserError for heads of another width or number than the class can have: the file's, or its default."""
    made = {"head_dim": width // heads, "num_key_value_heads": heads}
    for key in family.equal_heads:
        default = family.head_dim if key == "head_dim" else None
        if key not in config and default not in (None, made[key]):
            raise UserError(
                f"{key} is missing",
                where=f"{where}: {key}",
                why=f"the class of {family.model_type} then makes heads of {default}, and it divides a width of "
                f"{width} over {format_count(heads, 'head')}",
                fix=f'add "{key}": {made[key]}',
            )
        if config.get(key, made[key]) != made[key]:
            raise UserError(
                f"{key} is not supported",
                where=f"{where}: {key}",
                why=f"it is {config[key]!r:.60}, and the class of {family.model_type} can have only {made[key]}: it "
                f"divides a width of {width} over {format_count(heads, 'head')}",
                fix="remove it if the model was trained with this class, or choose another base",
            )


def check_factors(positions: Sequence[LayerPosition], *, head_dim: int, where: str) -> None:
    """Raise UserError where a layer has figures per pair, and their number is not that of a head's pairs."""
    for rope in {layer.rope: None for layer in positions}:
        for name in ("short_factor", "long_factor", "wavelengths_tokens"):
            given = getattr(rope, name, None)
            if given is not None and len(given) != head_dim // 2:
                raise UserError(
                    f"{name} does not match the heads",
                    where=where,
                    why=f"it has {format_count(len(given), 'entry')}, and a head of {head_dim} dimensions has "
                    f"{format_count(head_dim // 2, 'pair')}",
                    fix="correct config.json",
                )


def _is_within(value: Any, least: float, most: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most


def _refuse(config: Mapping[str, Any], key: str, wanted: str, where: str) -> UserError:
    return UserError(
        f"{key} is not usable",
        where=f"{where}: {key}",
        why=f"it is {config[key]!r:.60}, and must be {wanted}",
        fix="correct it",
    )
